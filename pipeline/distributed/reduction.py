"""One packed reduction over the replicas for everything that a step has to agree on."""
import tensorflow as tf


def is_averaged(tensor):
    """Tells whether a piece of the model's state is averaged over the replicas: statistics are, counters are not."""
    return tensor.dtype.is_floating


def reduce_once(grads, state, sums, num_replicas, bucket_bytes=0):
    """Adds gradients and sums over the replicas and averages float state, in one collective or in few.

    Call it in a replica context. Integer state (seed generators, counters) is the same on every replica and stays out:
    a float reduction would round it.

    Args:
      grads: list of float tensors.
      state: list of tensors, the model's new non-trainable values.
      sums: float vector [k].
      num_replicas: replicas in sync.
      bucket_bytes: the size that a collective has at least; 0 for one collective of everything.

    Returns:
      (grads, state, sums) of the same structure, shapes and dtypes, the same values on every replica.
    """
    if num_replicas == 1:
        return grads, state, sums
    floats = [s for s in state if is_averaged(s)]
    parts = [*grads, *(s / num_replicas for s in floats), sums]
    reduced = [piece for bucket in buckets(parts, sums.dtype.size, bucket_bytes)
               for piece in _reduce_packed(parts[bucket], sums.dtype)]
    averages = iter(reduced[len(grads):-1])
    return (reduced[:len(grads)], [next(averages) if is_averaged(s) else s for s in state], reduced[-1])


def buckets(parts, itemsize, bucket_bytes):
    """Divides tensors into runs of neighbours of at least a size, one of which may be smaller: the first.

    The last layers' gradients are there first in the backward pass, so counting begins at the end.

    Args:
      parts: tensors of static shape, at least one.
      itemsize: bytes an element.
      bucket_bytes: bytes; 0 for one run.

    Returns:
      list of slices, in order.
    """
    found, end, size = [], len(parts), 0
    for i in reversed(range(len(parts))):
        size += parts[i].shape.num_elements() * itemsize
        if i == 0 or (bucket_bytes and size >= bucket_bytes):
            found.insert(0, slice(i, end))
            end, size = i, 0
    return found


def _reduce_packed(parts, dtype):
    """Adds tensors over the replicas in one collective of `dtype`."""
    packed = tf.concat([tf.reshape(tf.cast(part, dtype), [-1]) for part in parts], axis=0)
    packed = tf.distribute.get_replica_context().all_reduce("SUM", packed)
    pieces = tf.split(packed, [part.shape.num_elements() for part in parts])
    return [tf.cast(tf.reshape(piece, part.shape), part.dtype) for piece, part in zip(pieces, parts, strict=True)]
