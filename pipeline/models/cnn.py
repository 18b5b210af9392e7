"""A plain convolutional network."""
from typing import Any

import keras

from pipeline.choices import MODELS
from pipeline.models.blocks import ConvBlock
from pipeline.models.classifier import Classifier
from pipeline.models.serialization import logits_dtype, registered


@MODELS.built_in("cnn", parameters=1_097_098, multiply_adds=73_482_752)
@registered
class CNN(Classifier):
    """Three ConvBlocks of 32, 64 and 128 filters, flatten, dense: 1,097,098 parameters for 28x28x1 and 10 classes."""

    def __init__(self, num_classes: int = 10, batch_norm_momentum: float = 0.9, **kwargs):
        kwargs.setdefault("name", "cnn")
        super().__init__(**kwargs)
        self.num_classes, self.batch_norm_momentum = num_classes, batch_norm_momentum
        dtype = self.dtype_policy
        settings = dict(batch_norm_momentum=batch_norm_momentum, dtype=dtype)
        self.block1 = ConvBlock(32, name="block1", **settings)
        self.block2 = ConvBlock(64, name="block2", **settings)
        self.block3 = ConvBlock(128, name="block3", **settings)
        self.flatten = keras.layers.Flatten(name="flatten", dtype=dtype)
        self.classifier = keras.layers.Dense(num_classes, name="classifier", dtype=logits_dtype(dtype))

    def call(self, x: Any, training: bool = False) -> Any:
        """Maps images [batch, height, width, channels] to logits [batch, num_classes]."""
        for block in (self.block1, self.block2, self.block3):
            x = block(x, training=training)
        return self.classifier(self.flatten(x))
