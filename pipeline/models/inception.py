"""Two small Inception networks (arXiv:1611.03530, appendix A, and a shorter one)."""
from typing import Any

import keras

from pipeline.choices import MODELS
from pipeline.models.blocks import ConvBlock, DownsampleBlock, InceptionBlock
from pipeline.models.classifier import Classifier
from pipeline.models.serialization import logits_dtype, registered


class InceptionClassifier(Classifier):
    """A ConvBlock of 96, the blocks of `stages`, global average pooling, dense.

    In `stages`, (a, b) is an inception block with a 1x1 and b 3x3 filters, and a number is a downsample block with that
    many filters.
    """

    stages: tuple[int | tuple[int, int], ...] = ()
    minimum_size = 7

    def __init__(self, num_classes: int = 10, batch_norm_momentum: float = 0.9, **kwargs):
        super().__init__(**kwargs)
        self.num_classes, self.batch_norm_momentum = num_classes, batch_norm_momentum
        dtype = self.dtype_policy
        settings = dict(batch_norm_momentum=batch_norm_momentum, dtype=dtype)
        self.conv = ConvBlock(96, name="conv", **settings)
        self.blocks = []
        numbers: dict[type, int] = {InceptionBlock: 0, DownsampleBlock: 0}
        for stage in self.stages:
            block, filters = (InceptionBlock, stage) if isinstance(stage, tuple) else (DownsampleBlock, (stage,))
            numbers[block] += 1
            kind = "inception" if block is InceptionBlock else "downsample"
            self.blocks.append(block(*filters, name=f"{kind}{numbers[block]}", **settings))
        self.pool = keras.layers.GlobalAveragePooling2D(name="pool", dtype=dtype)
        self.classifier = keras.layers.Dense(num_classes, name="classifier", dtype=logits_dtype(dtype))

    def call(self, x: Any, training: bool = False) -> Any:
        """Maps images [batch, height, width, channels] to logits [batch, num_classes]."""
        x = self.conv(x, training=training)
        for block in self.blocks:
            x = block(x, training=training)
        return self.classifier(self.pool(x))


@MODELS.built_in("inception", parameters=586_730, multiply_adds=117_269_760)
@registered
class Inception(InceptionClassifier):
    """Five inception and two downsample blocks: 586,730 parameters for 28x28x1 and 10 classes."""

    stages = ((32, 32), (32, 48), 80, (112, 48), (96, 64), (80, 80), 96)

    def __init__(self, num_classes: int = 10, batch_norm_momentum: float = 0.9, **kwargs):
        kwargs.setdefault("name", "inception")
        super().__init__(num_classes, batch_norm_momentum, **kwargs)


@MODELS.built_in("mini_inception", example_shape=(32, 32, 3), wanted_channels=3,
                 parameters=1_656_250, multiply_adds=234_597_920)
@registered
class MiniInception(InceptionClassifier):
    """Eight inception and two downsample blocks: 1,656,250 parameters for 32x32x3 and 10 classes."""

    stages = ((32, 32), (32, 48), 80, (112, 48), (96, 64), (80, 80), (48, 96), 96, (176, 160), (176, 160))

    def __init__(self, num_classes: int = 10, batch_norm_momentum: float = 0.9, **kwargs):
        kwargs.setdefault("name", "mini_inception")
        super().__init__(num_classes, batch_norm_momentum, **kwargs)
