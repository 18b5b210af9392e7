"""One packed reduction over the replicas of everything that a step has to agree on."""
from collections.abc import Sequence

import tensorflow as tf


def is_averaged(tensor: tf.Tensor) -> bool:
    """Tells whether a tensor of the model's state is averaged over the replicas: statistics are, counters are not."""
    return tensor.dtype.is_floating


def reduce_once(grads: Sequence[tf.Tensor], state: Sequence[tf.Tensor], sums: tf.Tensor, num_replicas: int,
                bucket_bytes: int = 0) -> tuple[Sequence[tf.Tensor], Sequence[tf.Tensor], tf.Tensor]:
    """Adds gradients and sums over the replicas and averages float state, in one collective or a few.

    To be called in a replica context. Integer state (seed generators, counters) is equal on all replicas and stays out:
    a float reduction would round it.

    Args:
      grads: float tensors.
      state: the model's new non-trainable values.
      sums: float vector [k].
      num_replicas: replicas in sync.
      bucket_bytes: minimum size of a collective; 0 for a single one.

    Returns:
      (grads, state, sums) of the same structure, shapes and dtypes, equal on all replicas.
    """
    if num_replicas == 1:
        return grads, state, sums
    floats = [s for s in state if is_averaged(s)]
    parts = [*grads, *(s / num_replicas for s in floats), sums]
    reduced = [piece for bucket in buckets(parts, sums.dtype.size, bucket_bytes)
               for piece in _reduce_packed(parts[bucket], sums.dtype)]
    averages = iter(reduced[len(grads):-1])
    return (reduced[:len(grads)], [next(averages) if is_averaged(s) else s for s in state], reduced[-1])


def buckets(parts: Sequence[tf.Tensor], itemsize: int, bucket_bytes: int) -> list[slice]:
    """Divides tensors into consecutive buckets of at least a size; the first may be smaller.

    Counted from the end, since the backward pass computes the last layers' gradients first.

    Args:
      parts: tensors of static shape, at least one.
      itemsize: bytes per element.
      bucket_bytes: 0 for one bucket.

    Returns:
      Slices of `parts`, in order.
    """
    found: list[slice] = []
    end, size = len(parts), 0
    for i in reversed(range(len(parts))):
        size += parts[i].shape.num_elements() * itemsize
        if i == 0 or (bucket_bytes and size >= bucket_bytes):
            found.insert(0, slice(i, end))
            end, size = i, 0
    return found


def _reduce_packed(parts: Sequence[tf.Tensor], dtype: tf.DType) -> list[tf.Tensor]:
    """Adds tensors over the replicas in one collective of `dtype`."""
    packed = tf.concat([tf.reshape(tf.cast(part, dtype), [-1]) for part in parts], axis=0)
    packed = tf.distribute.get_replica_context().all_reduce("SUM", packed)
    pieces = tf.split(packed, [part.shape.num_elements() for part in parts])
    return [tf.cast(tf.reshape(piece, part.shape), part.dtype) for piece, part in zip(pieces, parts, strict=True)]
