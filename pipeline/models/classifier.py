"""What all models have in common."""
import keras

from pipeline.errors import UsageError
from pipeline.internals.keras_internals import name_scope
from pipeline.models.serialization import KeepsArguments


class Classifier(KeepsArguments, keras.Model):
    """A network from images [batch, height, width, channels] to logits [batch, num_classes], float32.

    Logits are float32 under every precision policy but float64, where they are float64. A model's inner layers take
    its own policy, so that a reloaded model computes in the precision it was saved in.
    """

    minimum_size = 1  # The smallest height and width, in pixels, that leave something to classify.

    def build(self, input_shape):
        """Makes the variables of all layers inside, which keras.Model.build leaves out for a subclass.

        Under the model's name, so that a variable has one path whether its model was called, built or loaded.
        """
        with name_scope(self):
            self.compute_output_spec(keras.KerasTensor(tuple(input_shape)))
        self.built = True

    def build_graph(self, input_shape):
        """Returns the model as a functional keras.Model over (height, width, channels), sharing its weights.

        Raises:
          UsageError: an input smaller than `minimum_size`.
        """
        check_input_shape(type(self), self.name, input_shape)
        image = keras.Input(tuple(input_shape))
        return keras.Model(image, self.call(image, training=False), name=self.name)


def check_input_shape(model_class, name, input_shape):
    """Raises UsageError where images of (height, width, channels) are too small for a model."""
    shape, smallest = tuple(input_shape), getattr(model_class, "minimum_size", 1)
    size = "x".join(map(str, shape))
    if len(shape) != 3 or not all(isinstance(n, int) and n > 0 for n in shape):
        raise UsageError(f"model {name} takes images of height x width x channels, each at least 1; found {size}")
    if min(shape[:2]) < smallest:
        raise UsageError(f"model {name} needs images of at least {smallest}x{smallest}; found {size}")
