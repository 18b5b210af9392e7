"""A trained network with its preprocessing, as it lies in a Keras file: images in, probabilities out."""
import json

import keras
import tensorflow as tf

from pipeline.models.identity import described_variables, match_variables, weights_sha256
from pipeline.models.pixels import normalize
from pipeline.models.serialization import registered
from pipeline.models.trainability import freeze_parts, frozen_parts
from pipeline.quantities import counted


@registered
class ImageClassifier(keras.Model):
    """A network from images to logits, with what its images need before and its logits after.

    It refuses to be loaded as anything but what was saved: Keras goes on without a word where a model inside cannot be
    built, and looks for variables in some kinds of containers only. So its file holds the variables of the network as
    one list, with their names, shapes and SHA-256, and loading compares all of them. What of it was frozen is frozen
    again.

    Args:
      network: built keras.Model from images [n, H, W, channels] to logits [n, classes].
      image_shape: (H, W, C) of the images it takes.
      channels: channels that the network takes; images of one channel are repeated.
      class_names: names in the order of the probabilities.
      image_mean, image_deviation: C numbers each that normalize images in [0, 1], or None.
      metadata: dict of JSON types that travels with the model.
      variables: [[name, shape, dtype], ...] that the network must have, and weights_sha256: what their values must have
        once they are loaded; None: those that it has.
      frozen: what of the network does not train, see trainability.frozen_parts; None: what does not train in it.
    """

    def __init__(self, network, image_shape, channels, class_names, image_mean=None, image_deviation=None,
                 metadata=None, variables=None, weights_sha256=None, frozen=None, **kwargs):
        super().__init__(**kwargs)
        self.network, self.image_shape, self.channels = network, tuple(image_shape), channels
        self.class_names = tuple(class_names)
        self.image_mean, self.image_deviation = (None if v is None else tuple(v) for v in (image_mean, image_deviation))
        # As text: Keras would make a list of its own of every list in it, and look for layers there.
        self._metadata = json.dumps(metadata or {})
        self._weights_sha256 = weights_sha256
        if variables is not None:
            _check_variables(network, variables)
        if frozen is not None:
            freeze_parts(network, frozen)
        self.built = True

    @property
    def metadata(self):
        """What travels with the model: a dict of JSON types, see pipeline.export.metadata."""
        return json.loads(self._metadata)

    def call(self, images, training=False):
        """Maps images to probabilities.

        Args:
          images: float [n, H, W, C] in [0, 1], or integers [n, H, W, C] in 0..255.
          training: whether the network uses statistics of the batch and draws dropout.

        Returns:
          float32 [n, classes] in [0, 1], each row adding up to 1.
        """
        images = tf.convert_to_tensor(images)
        if tuple(images.shape[1:]) != self.image_shape:
            raise ValueError(f"images of this model are [n, {', '.join(map(str, self.image_shape))}]; found "
                             f"{list(images.shape)}")
        if images.dtype.is_integer:
            images = tf.cast(images, self.compute_dtype) / 255
        images = normalize(images, self.channels, self.image_mean, self.image_deviation)
        return tf.nn.softmax(self.network(images, training=training))

    def compute_output_shape(self, input_shape):
        return (input_shape[0], len(self.class_names))

    def get_config(self):
        return {**super().get_config(), "network": keras.saving.serialize_keras_object(self.network),
                "image_shape": self.image_shape, "channels": self.channels, "class_names": self.class_names,
                "image_mean": self.image_mean, "image_deviation": self.image_deviation, "metadata": self.metadata,
                "variables": described_variables(self.network), "weights_sha256": weights_sha256(self.network),
                "frozen": frozen_parts(self.network)}

    @classmethod
    def from_config(cls, config, custom_objects=None):
        network = keras.saving.deserialize_keras_object(config["network"], custom_objects=custom_objects)
        return super().from_config({**config, "network": network}, custom_objects=custom_objects)

    def __dir__(self):
        """Leaves the network out: Keras saves the state of whatever it finds here, and that is saved as one list."""
        return [name for name in super().__dir__() if name not in ("network", "layers")]

    def save_own_variables(self, store):
        """Writes every variable of the network: "0", "1", ... in the order of `variables`."""
        for number, variable in enumerate(self.network.variables):
            store[str(number)] = variable

    def load_own_variables(self, store):
        """Reads what save_own_variables wrote.

        Raises:
          ValueError: there are others, or their values are not those that were saved.
        """
        variables = self.network.variables
        if len(store.keys()) != len(variables):
            raise ValueError(f"the file holds {counted(len(store.keys()), 'variable')}, the model has {len(variables)}")
        for number, variable in enumerate(variables):
            variable.assign(store[str(number)])
        if self._weights_sha256 not in (None, found := weights_sha256(self.network)):
            raise ValueError(f"the weights in the file are not those that were saved: their SHA-256 is {found}, not "
                             f"{self._weights_sha256}; the file was changed")


def _check_variables(network, variables):
    """Raises ValueError where a network does not have the variables that it was saved with."""
    made = f"model '{network.name}' could not be made as it was saved"
    try:
        order = match_variables(variables, described_variables(network))
    except ValueError as error:
        raise ValueError(f"{made}: {error}; is its class another than it was?") from error
    if order != sorted(order):
        raise ValueError(f"{made}: its variables have another order; is its class another than it was?")
