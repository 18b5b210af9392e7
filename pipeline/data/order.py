"""The order of examples as a function of (seed, position)."""
import numpy as np
import tensorflow as tf

from pipeline.data.stateless_random import hashes

# Four rounds, the usual number, leave 1.3 fixed points a permutation where chance has 1; eight leave 1.0.
_ROUNDS = 8


def permute(places: tf.Tensor, size: int | tf.Tensor, *keys: int | tf.Tensor) -> tf.Tensor:
    """Maps places to the members of a random permutation without materializing it.

    The kernel uses only a few bits of each key word, so that raw epochs would repeat after 256: keys are hashed first.

    Args:
      places: int64 [n], in [0, size).
      size: integer or int64 scalar, number of members, at least 1.
      *keys: integers or integer tensors [n] that select the permutation.

    Returns:
      int64 [n], in [0, size).
    """
    places = tf.cast(places, tf.int64)
    seeds = tf.broadcast_to(tf.cast(hashes(3, *keys), tf.int32), [tf.size(places), 3])
    return tf.raw_ops.RandomIndexShuffle(index=places, seed=seeds, max_index=tf.cast(size, tf.int64) - 1,
                                         rounds=_ROUNDS)


def example_index(positions: tf.Tensor, num_examples: int, seed: int) -> tf.Tensor:
    """Returns the example at each position of an endless shuffled stream.

    Position p belongs to epoch p // num_examples and has place p % num_examples in that epoch's permutation, so that
    every epoch contains every example exactly once and batches span the end of an epoch.

    Args:
      positions: int64 [n], at least 0.
      num_examples: integer, at least 1.
      seed: integer, the run's seed.

    Returns:
      int64 [n] in [0, num_examples).
    """
    positions = tf.cast(positions, tf.int64)
    epochs = positions // num_examples
    return permute(positions % num_examples, num_examples, seed, epochs)


def example_index_array(positions: np.ndarray, num_examples: int, seed: int) -> np.ndarray:
    """`example_index` for NumPy: int64 array [n] in, int64 array [n] out."""
    return example_index(tf.constant(np.asarray(positions, np.int64)), num_examples, seed).numpy()
