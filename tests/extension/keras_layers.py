"""An extension whose model is made of Keras's own layers alone; with and without what replicas need."""
import keras

from pipeline.models.registry import register


@register("plain")
class Plain(keras.Model):
    """Batch normalization and dropout as Keras has them; `synchronized` takes statistics over all replicas."""

    def __init__(self, num_classes, *, synchronized: bool = False, rate: "float" = 0.3):
        super().__init__()
        self.body = [keras.layers.Conv2D(4, 3, strides=2), keras.layers.BatchNormalization(synchronized=synchronized),
                     keras.layers.ReLU(), keras.layers.Flatten()]
        self.dropout = keras.layers.Dropout(rate) if rate else None
        self.classifier = keras.layers.Dense(num_classes)

    def call(self, x):  # Without `training`: the layers inside get it from Keras.
        for layer in self.body:
            x = layer(x)
        return self.classifier(self.dropout(x) if self.dropout else x)
