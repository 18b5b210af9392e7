"""Vision Transformers (Dosovitskiy et al., arXiv:2010.11929) in the form of Beyer et al., arXiv:2205.01580."""
import functools
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from pipeline.choices import MODELS
from pipeline.errors import UsageError
from pipeline.models.blocks import Block
from pipeline.models.classifier import Classifier
from pipeline.models.dropout import Dropout
from pipeline.models.serialization import logits_dtype, registered

EPSILON = 1e-6
TEMPERATURE = 10_000.0  # Ratio of the longest to the shortest wavelength of the positions.


@functools.cache
def positions(height: int, width: int, channels: int) -> np.ndarray:
    """Returns fixed 2-D positions: sines and cosines of the column, then of the row, in geometric frequencies.

    Returns:
      float64 [height * width, channels], the patches row by row; channels is a multiple of 4, at least 8.
    """
    frequencies = TEMPERATURE ** -(np.arange(channels // 4) / (channels // 4 - 1))
    row, column = np.divmod(np.arange(height * width), width)
    angles = [np.outer(place, frequencies) for place in (column, row)]
    return np.concatenate([function(angle) for angle in angles for function in (np.sin, np.cos)], axis=1)


@registered
class QueryKeyValue(keras.layers.Dense):
    """The dense layer that makes queries, keys and values, each a third of its units.

    The softmax cancels the bias of the keys, which so has no gradient: it would be rounding noise, which misleads an
    adaptive optimizer.
    """

    def call(self, x: Any) -> tf.Tensor:
        """Maps [batch, tokens, channels] to [batch, tokens, units]."""
        query, key, value = tf.split(tf.convert_to_tensor(self.bias), 3)
        return tf.matmul(x, self.kernel) + tf.concat([query, tf.stop_gradient(key), value], axis=0)


@registered
class SelfAttention(Block):
    """Multi-head self-attention, softmax(q k / sqrt(d)) v, with biases; the softmax in at least float32.

    Args:
      heads: divides the channels.
    """

    def __init__(self, heads: int, **kwargs):
        super().__init__(**kwargs)
        self.heads = heads

    def build(self, input_shape: Any) -> None:
        channels, dtype = input_shape[-1], self.dtype_policy
        self.query_key_value = QueryKeyValue(3 * channels, name="query_key_value", dtype=dtype)
        self.output_projection = keras.layers.Dense(channels, name="output_projection", dtype=dtype)
        super().build(input_shape)

    def call(self, x: Any) -> Any:
        """Maps [batch, tokens, channels] to the same shape."""
        tokens, channels = x.shape[1:]
        split = tf.reshape(self.query_key_value(x), [-1, tokens, 3, self.heads, channels // self.heads])
        query, key, value = tf.unstack(tf.transpose(split, [2, 0, 3, 1, 4]))
        weights = tf.matmul(query * (channels // self.heads) ** -0.5, key, transpose_b=True)
        weights = tf.cast(tf.nn.softmax(tf.cast(weights, self.variable_dtype)), value.dtype)
        mixed = tf.transpose(tf.matmul(weights, value), [0, 2, 1, 3])
        return self.output_projection(tf.reshape(mixed, [-1, tokens, channels]))


@registered
class TransformerBlock(Block):
    """x + attention(norm(x)), then x + mlp(norm(x)); the MLP has four times the channels, and GELU.

    Args:
      channels: of inputs and outputs.
      heads: of the attention.
      drop_path: probability with which each of the two paths of an example is left out in training.
    """

    def __init__(self, channels: int, heads: int, drop_path: float = 0.0, **kwargs):
        super().__init__(**kwargs)
        self.channels, self.heads, self.drop_path = channels, heads, drop_path
        dtype = self.dtype_policy
        self.norm1 = keras.layers.LayerNormalization(epsilon=EPSILON, name="norm1", dtype=dtype)
        self.attention = SelfAttention(heads, name="attention", dtype=dtype)
        self.norm2 = keras.layers.LayerNormalization(epsilon=EPSILON, name="norm2", dtype=dtype)
        self.expansion = keras.layers.Dense(4 * channels, name="expansion", dtype=dtype)
        self.gelu = keras.layers.Activation("gelu", name="gelu", dtype=dtype)
        self.projection = keras.layers.Dense(channels, name="projection", dtype=dtype)
        self.paths = [Dropout(drop_path, noise_shape=(None, 1, 1), name=f"drop_path{i}", dtype=dtype) for i in (1, 2)
                      ] if drop_path else []
        self.add1, self.add2 = (keras.layers.Add(name=f"add{i}", dtype=dtype) for i in (1, 2))

    def call(self, x: Any, training: bool = False) -> Any:
        """Maps [batch, tokens, channels] to the same shape."""
        first, second = self.paths or (lambda path, training: path,) * 2
        x = self.add1([x, first(self.attention(self.norm1(x)), training=training)])
        path = self.projection(self.gelu(self.expansion(self.norm2(x))))
        return self.add2([x, second(path, training=training)])


class VisionTransformer(Classifier):
    """Patches, fixed positions, blocks, layer normalization, average over the patches, dense.

    Args:
      patch_size: height and width of a patch, by which those of the images divide: 4 for images of 32x32.
      drop_path: stochastic depth, the rate of the last block; that of the others grows to it from 0 (arXiv:1603.09382).
    """

    variant, channels, heads, depth = "vit", 192, 3, 12

    def __init__(self, num_classes: int = 1000, patch_size: int = 16, drop_path: float = 0.0, **kwargs):
        kwargs.setdefault("name", self.variant)
        super().__init__(**kwargs)
        if patch_size < 1:
            raise UsageError(f"patch_size must be at least 1; found {patch_size}")
        if not 0 <= drop_path < 1:
            raise UsageError(f"drop_path must be at least 0 and below 1; found {drop_path:g}")
        self.num_classes, self.patch_size, self.drop_path = num_classes, patch_size, drop_path
        dtype = self.dtype_policy
        self.embedding = keras.layers.Conv2D(self.channels, patch_size, strides=patch_size, name="embedding",
                                             dtype=dtype)
        self.blocks = [TransformerBlock(self.channels, self.heads, drop_path * i / (self.depth - 1),
                                        name=f"block{i + 1}", dtype=dtype) for i in range(self.depth)]
        self.norm = keras.layers.LayerNormalization(epsilon=EPSILON, name="norm", dtype=dtype)
        self.pool = keras.layers.GlobalAveragePooling1D(name="pool", dtype=dtype)
        self.classifier = keras.layers.Dense(num_classes, name="classifier", dtype=logits_dtype(dtype))

    def build(self, input_shape: Any) -> None:
        """See Classifier; raises UsageError for images that are no whole number of patches."""
        height, width = input_shape[1:3]
        if height % self.patch_size or width % self.patch_size:
            fits = [n for n in range(2, 33) if height % n == width % n == 0]
            raise UsageError(f"model {self.name}: images of {height}x{width} do not divide into patches of "
                             f"{self.patch_size}x{self.patch_size}: give --model_options=patch_size="
                             f"{max(fits, default=1, key=lambda n: (n <= 16, n))}, or another --image_size")
        super().build(input_shape)

    def call(self, x: Any, training: bool = False) -> Any:
        """Maps images [batch, height, width, channels] to logits [batch, num_classes]."""
        x = self.embedding(x)
        height, width = x.shape[1:3]
        x = tf.reshape(x, [-1, height * width, self.channels])
        x += tf.constant(positions(height, width, self.channels), x.dtype)
        for block in self.blocks:
            x = block(x, training=training)
        return self.classifier(self.pool(self.norm(x)))


@MODELS.built_in("vit_ti16", example_shape=(224, 224, 3), wanted_channels=3, input_range="-1..1", classes=1000,
                 parameters=5_679_400, multiply_adds=1_246_563_840)
@registered
class ViTTiny(VisionTransformer):
    """ViT-Ti/16: 12 blocks of 192 channels, 3 heads."""

    variant, channels, heads = "vit_ti16", 192, 3


@MODELS.built_in("vit_s16", example_shape=(224, 224, 3), wanted_channels=3, input_range="-1..1", classes=1000,
                 parameters=21_974_632, multiply_adds=4_574_026_752)
@registered
class ViTSmall(VisionTransformer):
    """ViT-S/16: 12 blocks of 384 channels, 6 heads."""

    variant, channels, heads = "vit_s16", 384, 6


@MODELS.built_in("vit_b16", example_shape=(224, 224, 3), wanted_channels=3, input_range="-1..1", classes=1000,
                 parameters=86_415_592, multiply_adds=17_471_649_792)
@registered
class ViTBase(VisionTransformer):
    """ViT-B/16: 12 blocks of 768 channels, 12 heads."""

    variant, channels, heads = "vit_b16", 768, 12
