"""The blocks of the models.

Merges are layers too (Concatenate, Add), so that a record of the called layers is the whole graph.
"""
from collections.abc import Sequence
from typing import Any

import keras

from pipeline.models.layers import Convolution, ReLU
from pipeline.models.normalization import BatchNormalization
from pipeline.models.serialization import KeepsArguments, registered


class Block(KeepsArguments, keras.layers.Layer):
    """A layer that consists of layers."""

    def build(self, input_shape: Sequence[int | None]) -> None:
        """Makes the variables of the layers inside, which keras.Layer.build does not: a file of a block has them."""
        self.compute_output_spec(keras.KerasTensor(tuple(input_shape)))


@registered
class ConvBlock(Block):
    """Convolution, batch normalization, ReLU.

    Args:
      filters: output channels.
      kernel_size: height and width of the kernel, or one number for both.
      strides: the same, of the steps.
      padding: "same" or "valid".
    """

    def __init__(self, filters: int, kernel_size: int | Sequence[int] = 3, strides: int | Sequence[int] = 1,
                 padding: str = "same", batch_norm_momentum: float = 0.9, **kwargs):
        super().__init__(**kwargs)
        self.filters, self.padding, self.batch_norm_momentum = filters, padding, batch_norm_momentum
        # A file has lists in place of tuples.
        self.kernel_size, self.strides = (tuple(v) if isinstance(v, list) else v for v in (kernel_size, strides))
        dtype = self.dtype_policy
        self.convolution = Convolution(filters, kernel_size, strides=strides, padding=padding, name="convolution",
                                       dtype=dtype)
        self.norm = BatchNormalization(momentum=batch_norm_momentum, name="norm", dtype=dtype)
        self.relu = ReLU(name="relu", dtype=dtype)

    def call(self, x: Any, training: bool = False) -> Any:
        """Maps [batch, height, width, channels] to [batch, out_height, out_width, filters]."""
        x = self.convolution(x, with_bias=False)
        x = self.norm(x, training=training, shift=self.convolution.bias)
        return self.relu(x)


@registered
class InceptionBlock(Block):
    """A 1x1 and a 3x3 ConvBlock in parallel, concatenated (the Inception module of arXiv:1611.03530, appendix A).

    Args:
      filters_1x1: output channels of the 1x1 convolution.
      filters_3x3: output channels of the 3x3 convolution.
    """

    def __init__(self, filters_1x1: int, filters_3x3: int, batch_norm_momentum: float = 0.9, **kwargs):
        super().__init__(**kwargs)
        self.filters_1x1, self.filters_3x3 = filters_1x1, filters_3x3
        self.batch_norm_momentum = batch_norm_momentum
        settings = dict(batch_norm_momentum=batch_norm_momentum, dtype=self.dtype_policy)
        self.conv_1x1 = ConvBlock(filters_1x1, 1, name="conv_1x1", **settings)
        self.conv_3x3 = ConvBlock(filters_3x3, 3, name="conv_3x3", **settings)
        self.concatenate = keras.layers.Concatenate(name="concatenate", dtype=self.dtype_policy)

    def call(self, x: Any, training: bool = False) -> Any:
        """Maps [batch, height, width, channels] to [batch, height, width, filters_1x1 + filters_3x3]."""
        return self.concatenate([self.conv_1x1(x, training=training), self.conv_3x3(x, training=training)])


@registered
class DownsampleBlock(Block):
    """A 3x3 ConvBlock and 3x3 max pooling in parallel, both with stride 2 and without padding, concatenated.

    Args:
      filters: output channels of the convolution.
    """

    def __init__(self, filters: int, batch_norm_momentum: float = 0.9, **kwargs):
        super().__init__(**kwargs)
        self.filters, self.batch_norm_momentum = filters, batch_norm_momentum
        dtype = self.dtype_policy
        self.conv = ConvBlock(filters, 3, strides=2, padding="valid", batch_norm_momentum=batch_norm_momentum,
                              name="conv", dtype=dtype)
        self.pool = keras.layers.MaxPooling2D(3, strides=2, name="pool", dtype=dtype)
        self.concatenate = keras.layers.Concatenate(name="concatenate", dtype=dtype)

    def call(self, x: Any, training: bool = False) -> Any:
        """Maps [batch, h, w, channels] to [batch, (h - 1) // 2, (w - 1) // 2, filters + channels]."""
        return self.concatenate([self.conv(x, training=training), self.pool(x)])


@registered
class ResidualBlock(Block):
    """conv1, conv2, conv3 of (x + identity(input)), 2x2 max pooling.

    Args:
      channels: output channels of the three ConvBlocks.
      identity_kernel: kernel size of the convolution that maps the input to channels[1].
    """

    def __init__(self, channels: Sequence[int], identity_kernel: int = 1, batch_norm_momentum: float = 0.9, **kwargs):
        super().__init__(**kwargs)
        self.channels, self.identity_kernel = tuple(channels), identity_kernel
        self.batch_norm_momentum = batch_norm_momentum
        dtype = self.dtype_policy
        settings = dict(batch_norm_momentum=batch_norm_momentum, dtype=dtype)
        self.conv1 = ConvBlock(self.channels[0], name="conv1", **settings)
        self.conv2 = ConvBlock(self.channels[1], name="conv2", **settings)
        self.identity = Convolution(self.channels[1], identity_kernel, padding="same", name="identity", dtype=dtype)
        self.add = keras.layers.Add(name="add", dtype=dtype)
        self.conv3 = ConvBlock(self.channels[2], name="conv3", **settings)
        self.pool = keras.layers.MaxPooling2D(2, name="pool", dtype=dtype)

    def call(self, x: Any, training: bool = False) -> Any:
        """Maps [batch, height, width, channels] to [batch, height // 2, width // 2, self.channels[2]]."""
        inner = self.conv2(self.conv1(x, training=training), training=training)
        return self.pool(self.conv3(self.add([inner, self.identity(x)]), training=training))
