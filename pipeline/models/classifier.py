"""The base class of the models."""
from collections.abc import Callable, Sequence
from typing import Any

import keras

from pipeline.errors import UsageError
from pipeline.internals.keras_internals import name_scope
from pipeline.models.serialization import KeepsArguments


class Classifier(KeepsArguments, keras.Model):
    """A network from images [batch, height, width, channels] to logits [batch, num_classes], float32.

    Logits are float32 under every precision policy but float64. Inner layers have the policy of the model, so that a
    reloaded model computes in the precision it was saved in. Subclasses take num_classes, the number of logits, and
    most take batch_norm_momentum, the momentum of the moving statistics.
    """

    minimum_size = 1  # Smallest height and width of images, in pixels.

    def build(self, input_shape: Sequence[int | None]) -> None:
        """Makes the variables of all layers inside, which keras.Model.build does not for a subclass.

        Within the model's name scope, so that a variable has one path whether its model was called, built or loaded.
        """
        with name_scope(self):
            self.compute_output_spec(keras.KerasTensor(tuple(input_shape)))
        self.built = True

    def build_graph(self, input_shape: Sequence[int]) -> keras.Model:
        """Returns the model as a functional keras.Model over (height, width, channels), sharing its weights.

        Raises:
          UsageError: an input smaller than `minimum_size`.
        """
        check_input_shape(type(self), self.name, input_shape)
        image = keras.Input(tuple(input_shape))
        return keras.Model(image, self.call(image, training=False), name=self.name)


def check_input_shape(model_class: Callable, name: str, input_shape: Sequence[Any]) -> None:
    """Raises UsageError where images of (height, width, channels) are too small for a model."""
    shape, smallest = tuple(input_shape), getattr(model_class, "minimum_size", 1)
    size = "x".join(map(str, shape))
    if len(shape) != 3 or not all(isinstance(n, int) and n > 0 for n in shape):
        raise UsageError(f"model {name} takes images of height x width x channels, each at least 1; found {size}")
    if min(shape[:2]) < smallest:
        raise UsageError(f"model {name} needs images of at least {smallest}x{smallest}; found {size}")
