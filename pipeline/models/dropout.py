"""Dropout whose mask depends on the example's place in the global batch, not on the replica."""
import math
from collections.abc import Sequence
from typing import Any

import keras
import tensorflow as tf

from pipeline.device_scope import on_gpu
from pipeline.models import context as step
from pipeline.models.serialization import KeepsArguments, registered

PHILOX = 1  # tf.random.Algorithm.PHILOX
WORDS_PER_COUNT = 4  # 32-bit numbers that Philox makes for one value of its counter
MAX_LAYERS = 2**20
SCRAMBLING_KEY = 0x02461E293EC8F720  # Of TensorFlow's, core/kernels/stateless_random_ops.cc.


def uniform_rows(seed: int, draw_index: Any, layer_index: int, first_row: Any, rows: Any, width: int) -> tf.Tensor:
    """Returns rows of one large random matrix: [rows, width] float32 uniform in [0, 1].

    Row r of the matrix is a function of (seed, draw_index, layer_index, first_row + r), so several replicas draw the
    rows that one would draw. Philox (Salmon et al., 2011) is a function of a counter: each row begins at its own count.

    Args:
      seed: in [0, 2**31).
      draw_index: int64 scalar.
      layer_index: below 2**20.
      first_row: int64 scalar.
      rows: number of rows, an int32 scalar or Python int.
      width: numbers of a row.
    """
    counts_per_row = -(-width // WORDS_PER_COUNT)
    words = tf.constant(seed * MAX_LAYERS + layer_index, tf.int64), tf.cast(draw_index, tf.int64)
    key, counter = scramble(*words) if on_gpu() else tf.raw_ops.StatelessRandomGetKeyCounter(seed=tf.stack(words))
    offset = tf.cast(tf.cast(first_row, tf.int64) * counts_per_row, tf.uint64)
    # Integers, since XLA converts Philox's words to floats differently from TensorFlow's kernels.
    words = tf.raw_ops.StatelessRandomUniformFullIntV2(
        shape=tf.stack([rows, counts_per_row * WORDS_PER_COUNT]), key=key,
        counter=tf.stack([offset, counter[1]]), alg=PHILOX, dtype=tf.uint32)
    return tf.cast(words[:, :width], tf.float32) * 2.0**-32


def scramble(first: tf.Tensor, second: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """Returns what tf.raw_ops.StatelessRandomGetKeyCounter does for two int64 scalars, computed on the device.

    Its own kernel, which is faster on a CPU, is computed on the host: at each layer that would wait for the GPU.

    Returns:
      (key uint64 [1], counter uint64 [2]), of which the first word is 0.
    """
    words = tf.raw_ops.StatelessRandomUniformFullIntV2(
        shape=tf.constant([2]), key=tf.constant([SCRAMBLING_KEY], tf.uint64),
        counter=tf.bitcast(tf.stack([first, second]), tf.uint64), alg=PHILOX, dtype=tf.uint64)
    return words[:1], tf.stack([tf.constant(0, tf.uint64), words[1]])


@registered
class Dropout(KeepsArguments, keras.layers.Layer):
    """Dropout (Srivastava et al., 2014): zero with probability `rate`, else scaled by 1 / (1 - rate).

    Within a StepContext the mask is a slice of the mask of the global micro-batch, the same on any number of replicas
    and in every precision; otherwise it is drawn with a seed generator, as in keras.layers.Dropout.

    Args:
      rate: probability in [0, 1).
      noise_shape: shape of the mask, which is repeated to that of the inputs, the first axis None: (None, 1, 1, 1)
        drops whole examples of a path (stochastic depth, Huang et al., arXiv:1603.09382). None: each value is drawn.
    """

    def __init__(self, rate: float, noise_shape: Sequence[int | None] | None = None, **kwargs):
        super().__init__(**kwargs)
        if not 0 <= rate < 1:
            raise ValueError(f"dropout's rate must be at least 0 and below 1; found {rate}")
        self.rate, self.noise_shape = rate, None if noise_shape is None else tuple(noise_shape)
        # Without a name, a counter of the process would name its variable.
        self.seed_generator = keras.random.SeedGenerator(name="seed_generator")
        self.built = True

    def compute_output_shape(self, input_shape: Sequence[int | None]) -> Sequence[int | None]:
        return input_shape

    def call(self, x: Any, training: bool = False) -> Any:
        """Drops elements of x [batch, ...] in training; returns x otherwise."""
        if not training or self.rate == 0:
            return x
        ctx = step.current()
        if ctx is None:
            return keras.random.dropout(x, self.rate, self.noise_shape, seed=self.seed_generator)
        width = x.shape[1:] if self.noise_shape is None else [
            own or size for own, size in zip(self.noise_shape[1:], x.shape[1:], strict=True)]
        uniform = uniform_rows(ctx.seed, ctx.draw_index, step.next_layer_index(), ctx.first_row, tf.shape(x)[0],
                               math.prod(width))
        keep = tf.reshape(uniform >= self.rate, [tf.shape(x)[0], *width])
        return tf.where(keep, x * tf.constant(1 / (1 - self.rate), x.dtype), tf.zeros_like(x))
