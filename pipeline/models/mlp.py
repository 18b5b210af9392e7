"""A multi-layer perceptron of this package's own layers."""
from typing import Any

import keras

from pipeline.choices import MODELS
from pipeline.models.classifier import Classifier
from pipeline.models.layers import Dense, ReLU
from pipeline.models.serialization import logits_dtype, registered


@MODELS.built_in("mlp", parameters=50_890, multiply_adds=50_816)
@registered
class MLP(Classifier):
    """Flatten, dense of 64, ReLU, dense: 50,890 parameters for 28x28x1 and 10 classes."""

    def __init__(self, num_classes: int = 10, **kwargs):
        kwargs.setdefault("name", "mlp")
        super().__init__(**kwargs)
        self.num_classes = num_classes
        dtype = self.dtype_policy
        self.flatten = keras.layers.Flatten(name="flatten", dtype=dtype)
        self.hidden = Dense(64, name="hidden", dtype=dtype)
        self.relu = ReLU(name="relu", dtype=dtype)
        self.classifier = Dense(num_classes, name="classifier", dtype=logits_dtype(dtype))

    def call(self, x: Any, training: bool = False) -> Any:
        """Maps images [batch, height, width, channels] to logits [batch, num_classes]."""
        return self.classifier(self.relu(self.hidden(self.flatten(x))))
