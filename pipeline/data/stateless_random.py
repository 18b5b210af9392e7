"""Random numbers as a function of integers: no state, the same on every device and in batches of any size.

Seeds are int64, although 31 bits of each are used: kernels of GPUs read int32 in host memory, as if it were sizes.

The hash is "lowbias32" by Chris Wellons (https://nullprogram.com/blog/2018/07/31/), computed on the low 32 bits of
int64. Constants above 2^31 are replaced by their negative equals modulo 2^32, so that no product overflows int64.
"""
from collections.abc import Sequence

import tensorflow as tf

_LOW_32 = 0xFFFFFFFF
_GOLDEN = 0x9E3779B9
_MULTIPLIERS = (0x7FEB352D, 0x846CA68B - 2**32)


def _mix(word):
    """Returns a bijective scrambling of int64 words in [0, 2^32)."""
    word = tf.bitwise.bitwise_xor(word, tf.bitwise.right_shift(word, tf.constant(16, tf.int64)))
    word = tf.bitwise.bitwise_and(word * _MULTIPLIERS[0], _LOW_32)
    word = tf.bitwise.bitwise_xor(word, tf.bitwise.right_shift(word, tf.constant(15, tf.int64)))
    word = tf.bitwise.bitwise_and(word * _MULTIPLIERS[1], _LOW_32)
    return tf.bitwise.bitwise_xor(word, tf.bitwise.right_shift(word, tf.constant(16, tf.int64)))


def combine(*words: int | tf.Tensor) -> tf.Tensor:
    """Hashes integers, in order, to one word.

    Args:
      *words: integer tensors or numbers whose shapes broadcast; the low 32 bits of each are used.

    Returns:
      int64, the broadcast shape, in [0, 2^32).
    """
    state = tf.constant(0, tf.int64)
    for word in words:
        word = word & _LOW_32 if isinstance(word, int) else tf.bitwise.bitwise_and(tf.cast(word, tf.int64), _LOW_32)
        state = tf.bitwise.bitwise_and(tf.bitwise.bitwise_xor(state, word) + _GOLDEN, _LOW_32)
        state = _mix(state)
    return state


def hashes(count: int, *words: int | tf.Tensor) -> tf.Tensor:
    """Hashes integers to several independent words.

    Args:
      count: how many.
      *words: integers or integer tensors [n].

    Returns:
      int64 [n, count] in [0, 2^31), or [1, count] where every word is a scalar.
    """
    columns = [tf.reshape(tf.cast(word, tf.int64), [-1, 1]) for word in words]
    found = combine(*columns, tf.range(count, dtype=tf.int64)[None])
    return tf.bitwise.right_shift(found, tf.constant(1, tf.int64))


def example_seeds(seed: int, positions: tf.Tensor) -> tf.Tensor:
    """Returns the seeds of examples by their positions in the stream.

    Args:
      seed: integer, the run's seed.
      positions: int64 [n], positions in the stream.

    Returns:
      int64 [n, 2]; row i is a function of (seed, positions[i]) alone.
    """
    positions = tf.cast(positions, tf.int64)
    return hashes(2, seed, positions, tf.bitwise.right_shift(positions, tf.constant(32, tf.int64)))


def fold_in(seeds: tf.Tensor, tag: int | Sequence[int]) -> tf.Tensor:
    """Returns new seeds for the same examples: one set for each tag, as jax.random.fold_in does.

    Args:
      seeds: int64 [n, 2].
      tag: an integer, or several.

    Returns:
      int64 [n, 2], or [n, tags, 2].
    """
    if isinstance(tag, int):
        return hashes(2, seeds[:, 0], seeds[:, 1], tag)
    first, second = (tf.reshape(seeds[:, column], [-1, 1, 1]) for column in (0, 1))
    found = combine(first, second, tf.constant([*tag], tf.int64)[:, None], tf.range(2, dtype=tf.int64))
    return tf.bitwise.right_shift(found, tf.constant(1, tf.int64))


def uniform(seeds: tf.Tensor, draw: int | Sequence[int]) -> tf.Tensor:
    """Draws one number for each example, or several: fewer operations than several calls.

    Args:
      seeds: int64 or int32 [n, 2].
      draw: index of the draw among those of an example, or indices.

    Returns:
      float32 [n] or [n, draws] in [0, 1), multiples of 2^-24; row i is a function of (seeds[i], draw) alone.
    """
    if not isinstance(draw, int):
        seeds, draw = seeds[:, None], tf.constant([*draw], tf.int64)
    word = combine(seeds[..., 0], seeds[..., 1], draw)
    return tf.cast(tf.bitwise.right_shift(word, tf.constant(8, tf.int64)), tf.float32) * (1.0 / (1 << 24))


def random_bytes(seeds: tf.Tensor, draw: int, count: int) -> tf.Tensor:
    """Draws `count` bytes for each example, uint8 [n, count]; arguments as those of `uniform`."""
    words = -(-count // 4)
    found = combine(seeds[:, :1], seeds[:, 1:], draw, tf.range(words, dtype=tf.int64))
    return tf.reshape(tf.bitcast(tf.cast(found, tf.uint32), tf.uint8), [-1, 4 * words])[:, :count]
