"""A model and a data set of one's own: mirrorline train --extension=docs/example_extension.py --dataset=shapes ..."""
import keras
import numpy as np

from pipeline import register
from pipeline.models.dropout import Dropout
from pipeline.models.normalization import BatchNormalization


@register.model("small_net", example_shape=(24, 24, 1))
class SmallNet(keras.Model):
    """Two convolutions and a dense layer: any keras.Model that takes num_classes and returns logits will do."""

    def __init__(self, num_classes=3, width: int = 16, rate: float = 0.2, batch_norm_momentum: float = 0.9, **kwargs):
        super().__init__(**kwargs)
        self.stages = [
            [keras.layers.Conv2D(filters, 3, strides=2, padding="same", use_bias=False),
             BatchNormalization(momentum=batch_norm_momentum), keras.layers.ReLU()] for filters in (width, 2 * width)]
        self.flatten, self.dropout = keras.layers.Flatten(), Dropout(rate)
        self.classifier = keras.layers.Dense(num_classes, dtype="float32")  # Logits are float32 in every precision.

    def call(self, x, training=False):
        """Maps images [batch, height, width, channels] in [0, 1] to logits [batch, num_classes]."""
        for convolution, normalization, activation in self.stages:
            x = activation(normalization(convolution(x), training=training))
        return self.classifier(self.dropout(self.flatten(x), training=training))


@register.dataset("shapes")
def shapes(image_size=None):
    """Discs, squares and crosses of any size anywhere, in noise: uint8 images with one channel."""
    size, generator = image_size or 24, np.random.RandomState(0)
    train, test = (draw(count, size, generator) for count in (600, 150))
    return train, test, ["disc", "square", "cross"]


def draw(count, size, generator):
    """Returns (images uint8 [count, size, size, 1], labels [count])."""
    labels = np.arange(count) % 3
    radius = generator.uniform(0.15, 0.3, (count, 1, 1)) * size
    middle_y, middle_x = generator.uniform(0.35, 0.65, (2, count, 1, 1)) * size
    rows, columns = np.mgrid[:size, :size]
    y, x = np.abs(rows - middle_y) / radius, np.abs(columns - middle_x) / radius
    inside = np.choose(labels[:, None, None], [np.hypot(x, y) < 1, np.maximum(x, y) < 0.9,
                                               (np.minimum(x, y) < 0.3) & (np.maximum(x, y) < 1.1)])
    noise = generator.uniform(0, 90, (count, size, size))
    return (150 * inside + noise).astype(np.uint8)[..., None], labels
