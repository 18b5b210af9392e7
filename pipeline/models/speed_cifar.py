"""A small network that reaches 94% on CIFAR-10 in about ten epochs (Jordan, arXiv:2404.00498)."""
import math
from collections.abc import Sequence
from typing import Any

import keras

from pipeline.choices import MODELS
from pipeline.models.blocks import Block
from pipeline.models.classifier import Classifier
from pipeline.models.layers import Convolution
from pipeline.models.normalization import BatchNormalization
from pipeline.models.serialization import logits_dtype, registered

EPSILON = 1.001e-5  # The least that cuDNN takes.
LOGITS_SCALE = 1 / 9
PATCH_FILTERS = 24  # Two for each of the 2 x 2 x 3 values of a patch.


@registered
class PassingInitializer(keras.initializers.Initializer):
    """Makes a convolution that passes its inputs through: its first filters are the identity, the others are random.

    Those are uniform in +-1 / sqrt(fan-in).

    Args:
      seed: of the random filters; None: Keras's global one.
    """

    def __init__(self, seed: int | None = None):
        self.seed = seed
        self._random = keras.initializers.RandomUniform(-1.0, 1.0, seed)

    def __call__(self, shape: Sequence[int], dtype: Any = None) -> Any:
        """Returns a kernel [height, width, channels in, filters]."""
        height, width, channels, filters = shape
        random = self._random(shape, dtype) / math.sqrt(height * width * channels)
        passed = min(channels, filters)
        identity = keras.ops.eye(channels, passed, dtype=dtype)[None, None]
        around = [[height // 2, (height - 1) // 2], [width // 2, (width - 1) // 2], [0, 0], [0, 0]]
        return keras.ops.concatenate([keras.ops.pad(identity, around), random[..., passed:]], axis=-1)

    def get_config(self) -> dict[str, Any]:
        return {"seed": self.seed}


@registered
class SpeedBlock(Block):
    """3x3 convolution, 2x2 max pooling, normalization, GELU; 3x3 convolution, normalization, GELU.

    Convolutions have no bias and normalizations no factor.

    Args:
      filters: output channels.
    """

    def __init__(self, filters: int, batch_norm_momentum: float = 0.9, **kwargs):
        super().__init__(**kwargs)
        self.filters, self.batch_norm_momentum = filters, batch_norm_momentum
        dtype = self.dtype_policy
        self.conv1, self.conv2 = (
            Convolution(filters, 3, padding="same", use_bias=False, kernel_initializer=PassingInitializer(),
                        name=f"conv{i}", dtype=dtype) for i in (1, 2))
        self.norm1, self.norm2 = (BatchNormalization(momentum=batch_norm_momentum, epsilon=EPSILON, scale=False,
                                                     name=f"norm{i}", dtype=dtype) for i in (1, 2))
        self.gelu1, self.gelu2 = (keras.layers.Activation("gelu", name=f"gelu{i}", dtype=dtype) for i in (1, 2))
        self.pool = keras.layers.MaxPooling2D(2, name="pool", dtype=dtype)

    def call(self, x: Any, training: bool = False) -> Any:
        """Maps [batch, height, width, channels] to [batch, height // 2, width // 2, filters]."""
        x = self.gelu1(self.norm1(self.pool(self.conv1(x)), training=training))
        return self.gelu2(self.norm2(self.conv2(x), training=training))


@MODELS.built_in("speed_cifar", example_shape=(32, 32, 3), parameters=1_973_944, multiply_adds=118_147_360)
@registered
class SpeedCifar(Classifier):
    """A 2x2 convolution of 24 filters, SpeedBlocks of 64, 256 and 256, global max pooling, dense, scaled logits."""

    minimum_size = 9

    def __init__(self, num_classes: int = 10, batch_norm_momentum: float = 0.9, **kwargs):
        kwargs.setdefault("name", "speed_cifar")
        super().__init__(**kwargs)
        self.num_classes, self.batch_norm_momentum = num_classes, batch_norm_momentum
        dtype = self.dtype_policy
        self.patches = keras.layers.Conv2D(PATCH_FILTERS, 2, activation="gelu", name="patches", dtype=dtype)
        self.block1, self.block2, self.block3 = (
            SpeedBlock(filters, batch_norm_momentum, name=f"block{i}", dtype=dtype)
            for i, filters in enumerate((64, 256, 256), 1))
        self.pool = keras.layers.GlobalMaxPooling2D(name="pool", dtype=dtype)
        self.classifier = keras.layers.Dense(num_classes, use_bias=False, name="classifier", dtype=logits_dtype(dtype))

    def call(self, x: Any, training: bool = False) -> Any:
        """Maps images [batch, height, width, channels] to logits [batch, num_classes]."""
        x = self.patches(x)
        for block in (self.block1, self.block2, self.block3):
            x = block(x, training=training)
        return self.classifier(self.pool(x)) * LOGITS_SCALE
