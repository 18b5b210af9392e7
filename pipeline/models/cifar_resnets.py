"""Residual networks for images of 32x32: ResNet-18 (arXiv:1512.03385) and Wide ResNets (arXiv:1605.07146)."""
from typing import Any

import keras

from pipeline.choices import MODELS
from pipeline.errors import UsageError
from pipeline.models.blocks import Block
from pipeline.models.classifier import Classifier
from pipeline.models.dropout import Dropout
from pipeline.models.layers import Convolution, ReLU
from pipeline.models.normalization import BatchNormalization
from pipeline.models.serialization import logits_dtype, registered

EPSILON = 1.001e-5  # As in PyTorch, where these were trained, and the least that cuDNN takes.


def _convolution(filters, kernel_size, strides, name, dtype):
    return Convolution(filters, kernel_size, strides=strides, padding="same", use_bias=False,
                       kernel_initializer="he_normal", name=name, dtype=dtype)


def _norm(momentum, name, dtype):
    return BatchNormalization(momentum=momentum, epsilon=EPSILON, name=name, dtype=dtype)


@registered
class BasicBlock(Block):
    """ReLU of shortcut(x) + norm(conv(relu(norm(conv(x))))), both convolutions 3x3.

    The shortcut is a 1x1 convolution with normalization where the shape changes.

    Args:
      filters: output channels.
      strides: of the first convolution.
      projected: whether the shape changes.
    """

    def __init__(self, filters: int, strides: int = 1, projected: bool = False, batch_norm_momentum: float = 0.9,
                 **kwargs):
        super().__init__(**kwargs)
        self.filters, self.strides, self.projected = filters, strides, projected
        self.batch_norm_momentum = batch_norm_momentum
        dtype = self.dtype_policy
        self.conv1 = _convolution(filters, 3, strides, "conv1", dtype)
        self.norm1 = _norm(batch_norm_momentum, "norm1", dtype)
        self.relu1 = ReLU(name="relu1", dtype=dtype)
        self.conv2 = _convolution(filters, 3, 1, "conv2", dtype)
        self.norm2 = _norm(batch_norm_momentum, "norm2", dtype)
        self.shortcut = _convolution(filters, 1, strides, "shortcut", dtype) if projected else None
        self.shortcut_norm: Any = _norm(batch_norm_momentum, "shortcut_norm", dtype) if projected else None
        self.add = keras.layers.Add(name="add", dtype=dtype)
        self.relu2 = ReLU(name="relu2", dtype=dtype)

    def call(self, x: Any, training: bool = False) -> Any:
        """Maps [batch, height, width, channels] to [batch, height / strides, width / strides, filters], rounded up."""
        path = self.relu1(self.norm1(self.conv1(x), training=training))
        path = self.norm2(self.conv2(path), training=training)
        if self.shortcut is not None:
            x = self.shortcut_norm(self.shortcut(x), training=training)
        return self.relu2(self.add([path, x]))


@registered
class WideBlock(Block):
    """x + conv(relu(norm(conv(relu(norm(x)))))), both convolutions 3x3, with dropout between them.

    Where the shape changes, the shortcut is a 1x1 convolution of relu(norm(x)).

    Args:
      filters: output channels.
      strides: of the first convolution.
      projected: whether the shape changes.
      dropout: rate in [0, 1).
    """

    def __init__(self, filters: int, strides: int = 1, projected: bool = False, dropout: float = 0.0,
                 batch_norm_momentum: float = 0.9, **kwargs):
        super().__init__(**kwargs)
        self.filters, self.strides, self.projected, self.dropout = filters, strides, projected, dropout
        self.batch_norm_momentum = batch_norm_momentum
        dtype = self.dtype_policy
        self.norm1 = _norm(batch_norm_momentum, "norm1", dtype)
        self.relu1 = ReLU(name="relu1", dtype=dtype)
        self.conv1 = _convolution(filters, 3, strides, "conv1", dtype)
        self.norm2 = _norm(batch_norm_momentum, "norm2", dtype)
        self.relu2 = ReLU(name="relu2", dtype=dtype)
        self.drop = Dropout(dropout, name="drop", dtype=dtype) if dropout else None
        self.conv2 = _convolution(filters, 3, 1, "conv2", dtype)
        self.shortcut = _convolution(filters, 1, strides, "shortcut", dtype) if projected else None
        self.add = keras.layers.Add(name="add", dtype=dtype)

    def call(self, x: Any, training: bool = False) -> Any:
        """Maps [batch, height, width, channels] to [batch, height / strides, width / strides, filters], rounded up."""
        active = self.relu1(self.norm1(x, training=training))
        path = self.relu2(self.norm2(self.conv1(active), training=training))
        if self.drop is not None:
            path = self.drop(path, training=training)
        return self.add([self.conv2(path), x if self.shortcut is None else self.shortcut(active)])


@MODELS.built_in("resnet18_cifar", example_shape=(32, 32, 3), parameters=11_183_562, multiply_adds=555_422_720)
@registered
class ResNet18Cifar(Classifier):
    """ResNet-18 that begins with a 3x3 convolution of stride 1, without pooling.

    Four stages of two BasicBlocks with 64, 128, 256 and 512 filters, global average pooling, dense.
    """

    def __init__(self, num_classes: int = 10, batch_norm_momentum: float = 0.9, **kwargs):
        kwargs.setdefault("name", "resnet18_cifar")
        super().__init__(**kwargs)
        self.num_classes, self.batch_norm_momentum = num_classes, batch_norm_momentum
        dtype = self.dtype_policy
        self.conv = _convolution(64, 3, 1, "conv", dtype)
        self.norm = _norm(batch_norm_momentum, "norm", dtype)
        self.relu = ReLU(name="relu", dtype=dtype)
        self.blocks = [BasicBlock(64 * 2**stage, 2 if stage and not block else 1, bool(stage and not block),
                                  batch_norm_momentum, name=f"stage{stage + 1}_block{block + 1}", dtype=dtype)
                       for stage in range(4) for block in range(2)]
        self.pool = keras.layers.GlobalAveragePooling2D(name="pool", dtype=dtype)
        self.classifier = keras.layers.Dense(num_classes, name="classifier", dtype=logits_dtype(dtype))

    def call(self, x: Any, training: bool = False) -> Any:
        """Maps images [batch, height, width, channels] to logits [batch, num_classes]."""
        x = self.relu(self.norm(self.conv(x), training=training))
        for block in self.blocks:
            x = block(x, training=training)
        return self.classifier(self.pool(x))


@MODELS.built_in("wrn16_8", example_shape=(32, 32, 3), parameters=10_968_570, multiply_adds=1_548_145_664)
@registered
class WideResNet(Classifier):
    """WRN-16-8: three stages of two WideBlocks with 128, 256 and 512 filters, global average pooling, dense.

    Args:
      dropout: rate of dropout in each block, in [0, 1); 0.3 in the paper.
    """

    def __init__(self, num_classes: int = 10, dropout: float = 0.0, batch_norm_momentum: float = 0.9, **kwargs):
        kwargs.setdefault("name", "wrn16_8")
        super().__init__(**kwargs)
        if not 0 <= dropout < 1:
            raise UsageError(f"dropout must be at least 0 and below 1; found {dropout:g}")
        self.num_classes, self.dropout, self.batch_norm_momentum = num_classes, dropout, batch_norm_momentum
        dtype = self.dtype_policy
        self.conv = _convolution(16, 3, 1, "conv", dtype)
        self.blocks = [WideBlock(128 * 2**stage, 2 if stage and not block else 1, not block, dropout,
                                 batch_norm_momentum, name=f"stage{stage + 1}_block{block + 1}", dtype=dtype)
                       for stage in range(3) for block in range(2)]
        self.norm = _norm(batch_norm_momentum, "norm", dtype)
        self.relu = ReLU(name="relu", dtype=dtype)
        self.pool = keras.layers.GlobalAveragePooling2D(name="pool", dtype=dtype)
        self.classifier = keras.layers.Dense(num_classes, name="classifier", dtype=logits_dtype(dtype))

    def call(self, x: Any, training: bool = False) -> Any:
        """Maps images [batch, height, width, channels] to logits [batch, num_classes]."""
        x = self.conv(x)
        for block in self.blocks:
            x = block(x, training=training)
        return self.classifier(self.pool(self.relu(self.norm(x, training=training))))
