"""One packed reduction over the replicas for everything that a step has to agree on."""
import tensorflow as tf


def is_averaged(tensor):
    """Tells whether a piece of the model's state is averaged over the replicas: statistics are, counters are not."""
    return tensor.dtype.is_floating


def reduce_once(grads, state, sums, num_replicas):
    """Adds gradients and sums over the replicas and averages float state, in one collective.

    Call it in a replica context. Integer state (seed generators, counters) is the same on every replica and stays out:
    a float reduction would round it.

    Args:
      grads: list of float tensors.
      state: list of tensors, the model's new non-trainable values.
      sums: float vector [k].
      num_replicas: replicas in sync.

    Returns:
      (grads, state, sums) of the same structure, shapes and dtypes, the same values on every replica.
    """
    if num_replicas == 1:
        return grads, state, sums
    floats = [s for s in state if is_averaged(s)]
    parts = [*grads, *(s / num_replicas for s in floats), sums]
    dtype = sums.dtype
    packed = tf.concat([tf.reshape(tf.cast(part, dtype), [-1]) for part in parts], axis=0)
    packed = tf.distribute.get_replica_context().all_reduce("SUM", packed)
    pieces = tf.split(packed, [part.shape.num_elements() for part in parts])
    reduced = [tf.cast(tf.reshape(piece, part.shape), part.dtype) for piece, part in zip(pieces, parts, strict=True)]
    averages = iter(reduced[len(grads):-1])
    return (reduced[:len(grads)], [next(averages) if is_averaged(s) else s for s in state], reduced[-1])
