"""A small residual network."""
from typing import Any

import keras

from pipeline.choices import MODELS
from pipeline.errors import UsageError
from pipeline.models.blocks import ResidualBlock
from pipeline.models.classifier import Classifier
from pipeline.models.serialization import logits_dtype, registered


@MODELS.built_in("resnet_like", parameters=2_400_490, multiply_adds=214_607_872)
@registered
class ResNetLike(Classifier):
    """Three residual blocks, global average pooling, dense: 2,400,490 parameters for 28x28x1 and 10 classes.

    Args:
      identity_kernel: kernel size of the shortcut convolutions. 1 only matches the channels; 3 gives the larger
        variant of 2,990,570 parameters.
    """

    minimum_size = 8

    def __init__(self, num_classes: int = 10, identity_kernel: int = 1, batch_norm_momentum: float = 0.9, **kwargs):
        kwargs.setdefault("name", "resnet_like")
        super().__init__(**kwargs)
        if identity_kernel < 1:
            raise UsageError(f"identity_kernel must be at least 1; found {identity_kernel}")
        self.num_classes, self.identity_kernel = num_classes, identity_kernel
        self.batch_norm_momentum = batch_norm_momentum
        dtype = self.dtype_policy
        settings = dict(identity_kernel=identity_kernel, batch_norm_momentum=batch_norm_momentum, dtype=dtype)
        self.block1 = ResidualBlock((32, 32, 64), name="block1", **settings)
        self.block2 = ResidualBlock((128, 128, 256), name="block2", **settings)
        self.block3 = ResidualBlock((128, 256, 512), name="block3", **settings)
        self.pool = keras.layers.GlobalAveragePooling2D(name="pool", dtype=dtype)
        self.classifier = keras.layers.Dense(num_classes, name="classifier", dtype=logits_dtype(dtype))

    def call(self, x: Any, training: bool = False) -> Any:
        """Maps images [batch, height, width, channels] to logits [batch, num_classes]."""
        for block in (self.block1, self.block2, self.block3):
            x = block(x, training=training)
        return self.classifier(self.pool(x))
