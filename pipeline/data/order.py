"""The order of examples as a function of (seed, position)."""
import numpy as np
import tensorflow as tf

from pipeline.data.stateless_random import hashes

# Four rounds, the usual number, leave 1.3 fixed points a permutation where chance has 1; eight leave 1.0.
_ROUNDS = 8


def permute(places, size, *keys):
    """Maps places to the members of a random permutation, without making it.

    The kernel looks at a few bits of each key word only: epochs given as they are repeat after 256. So the keys are
    hashed first.

    Args:
      places: int64 [n], in [0, size).
      size: integer or int64 scalar, how many there are to permute, at least 1.
      *keys: integers or integer tensors [n] that choose the permutation.

    Returns:
      int64 [n], in [0, size).
    """
    places = tf.cast(places, tf.int64)
    seeds = tf.broadcast_to(hashes(3, *keys), [tf.size(places), 3])
    return tf.raw_ops.RandomIndexShuffle(index=places, seed=seeds, max_index=tf.cast(size, tf.int64) - 1,
                                         rounds=_ROUNDS)


def example_index(positions, num_examples, seed):
    """Returns which example stands at each position of an endless shuffled stream.

    Position p belongs to epoch p // num_examples and has place p % num_examples in that epoch's permutation, so that
    every epoch meets every example exactly once and batches run on from one epoch into the next.

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


def example_index_array(positions, num_examples, seed):
    """`example_index` for NumPy: int64 array [n] in, int64 array [n] out."""
    return example_index(tf.constant(np.asarray(positions, np.int64)), num_examples, seed).numpy()
