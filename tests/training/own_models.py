"""Models as users write them, for the tests of training."""
import keras

from pipeline.choices import ModelRow
from pipeline.models import registry
from pipeline.models.classifier import Classifier
from pipeline.models.dropout import Dropout
from pipeline.models.normalization import BatchNormalization
from pipeline.registry import RegistryEntry


class Penalized(Classifier):
    """A layer with a penalty on its output and one on its kernel, and dropout after it."""

    def __init__(self, num_classes: int = 10, rate: float = 0.0, **kwargs):
        super().__init__(**kwargs)
        self.num_classes, self.rate = num_classes, rate
        self.flatten = keras.layers.Flatten()
        self.hidden = keras.layers.Dense(8, activation="tanh", activity_regularizer=keras.regularizers.L2(0.1),
                                         kernel_regularizer=keras.regularizers.L2(0.01))
        self.dropout = Dropout(rate)
        self.classifier = keras.layers.Dense(num_classes)

    def call(self, x, training=False):
        return self.classifier(self.dropout(self.hidden(self.flatten(x)), training=training))


class Nested(Classifier):
    """Layers in a list of lists, which checkpoints of a Keras model do not find."""

    def __init__(self, num_classes: int = 10, **kwargs):
        super().__init__(**kwargs)
        self.num_classes = num_classes
        self.stages = [[keras.layers.Flatten(), keras.layers.Dense(4)],
                       [BatchNormalization(), keras.layers.Dense(num_classes)]]

    def call(self, x, training=False):
        for stage in self.stages:
            for layer in stage:
                x = layer(x)
        return x


class Pooled(Classifier):
    """Takes images of any size."""

    def __init__(self, num_classes: int = 10, **kwargs):
        super().__init__(**kwargs)
        self.num_classes = num_classes
        self.convolution = keras.layers.Conv2D(8, 3, strides=2, activation="relu", name="convolution")
        self.norm, self.pool = BatchNormalization(name="norm"), keras.layers.GlobalAveragePooling2D()
        self.classifier = keras.layers.Dense(num_classes, name="classifier")

    def call(self, x, training=False):
        return self.classifier(self.pool(self.norm(self.convolution(x), training=training)))


def offer(monkeypatch):
    """Adds them to the table of models as penalized, nested and pooled."""
    for name, model_class in (("penalized", Penalized), ("nested", Nested), ("pooled", Pooled)):
        monkeypatch.setitem(registry.MODELS.registered, name, RegistryEntry(model_class, None, ModelRow()))
