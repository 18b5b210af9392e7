"""A trained network with its preprocessing, as saved in a Keras file: images in, probabilities out."""
import json
from collections.abc import Mapping, Sequence
from typing import Any

import keras
import tensorflow as tf

from pipeline.models.identity import described_variables, match_variables, weights_sha256
from pipeline.models.pixels import normalize
from pipeline.models.serialization import registered
from pipeline.models.trainability import freeze_parts, frozen_parts
from pipeline.preprocessing import UNIT
from pipeline.quantities import counted


@registered
class ImageClassifier(keras.Model):
    """A network from images to logits, with the preprocessing of its images and a softmax.

    Loading refuses anything but what was saved: Keras silently continues where a model inside cannot be built, and
    finds variables only in some kinds of containers. So the file has the variables of the network as one list, with
    their names, shapes and SHA-256, and loading compares all of them. Frozen parts are frozen again.

    Args:
      network: built model from images [n, H, W, channels] to logits [n, classes].
      image_shape: (H, W, C) of its images.
      channels: channels of the input of the network; images of one channel are repeated.
      class_names: in the order of the probabilities.
      image_mean, image_deviation: C numbers each that normalize images in [0, 1], or None.
      metadata: JSON types, saved with the model.
      variables: [[name, shape, dtype], ...] that the network must have; None: its own.
      weights_sha256: expected of the loaded weights; None: not checked.
      frozen: parts that do not train, see trainability.frozen_parts; None: as they are.
      input_range: of the network, one of pipeline.preprocessing.INPUT_RANGES.
    """

    def __init__(self, network: keras.Model, image_shape: Sequence[int], channels: int, class_names: Sequence[str],
                 image_mean: Sequence[float] | None = None, image_deviation: Sequence[float] | None = None,
                 metadata: Mapping[str, Any] | None = None, variables: Sequence | None = None,
                 weights_sha256: str | None = None, frozen: Mapping[str, Any] | None = None, input_range: str = UNIT,
                 **kwargs):
        super().__init__(**kwargs)
        self.network, self.image_shape, self.channels = network, tuple(image_shape), channels
        self.class_names, self.input_range = tuple(class_names), input_range
        self.image_mean, self.image_deviation = (None if v is None else tuple(v) for v in (image_mean, image_deviation))
        # As text: Keras would wrap every list in it and look for layers there.
        self._metadata = json.dumps(metadata or {})
        self._weights_sha256 = weights_sha256
        if variables is not None:
            _check_variables(network, variables)
        if frozen is not None:
            freeze_parts(network, frozen)
        self.built = True

    @property
    def metadata(self) -> dict[str, Any]:
        """Metadata of JSON types, see pipeline.export.metadata."""
        return json.loads(self._metadata)

    def call(self, images: Any, training: bool = False) -> tf.Tensor:
        """Maps images to probabilities.

        Args:
          images: float [n, H, W, C] in [0, 1], or integers [n, H, W, C] in 0..255.
          training: whether the network uses statistics of the batch and dropout.

        Returns:
          float32 [n, classes] in [0, 1]; each row sums to 1.
        """
        images = tf.convert_to_tensor(images)
        if tuple(images.shape[1:]) != self.image_shape:
            raise ValueError(f"images of this model are [n, {', '.join(map(str, self.image_shape))}]; found "
                             f"{list(images.shape)}")
        if images.dtype.is_integer:
            images = tf.cast(images, self.compute_dtype) / 255
        images = normalize(images, self.channels, self.image_mean, self.image_deviation, self.input_range)
        return tf.nn.softmax(self.network(images, training=training))

    def compute_output_shape(self, input_shape: Sequence[int | None]) -> tuple[int | None, int]:
        return (input_shape[0], len(self.class_names))

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "network": keras.saving.serialize_keras_object(self.network),
                "image_shape": self.image_shape, "channels": self.channels, "class_names": self.class_names,
                "image_mean": self.image_mean, "image_deviation": self.image_deviation, "metadata": self.metadata,
                "variables": described_variables(self.network), "weights_sha256": weights_sha256(self.network),
                "frozen": frozen_parts(self.network), "input_range": self.input_range}

    @classmethod
    def from_config(cls, config: dict[str, Any], custom_objects: dict[str, Any] | None = None) -> "ImageClassifier":
        network = keras.saving.deserialize_keras_object(config["network"], custom_objects=custom_objects)
        return super().from_config({**config, "network": network}, custom_objects=custom_objects)

    def __dir__(self):
        """Leaves out the network: Keras saves the state of what it finds here, and the network is saved as one list."""
        return [name for name in super().__dir__() if name not in ("network", "layers")]

    def save_own_variables(self, store: Any) -> None:
        """Writes every variable of the network: "0", "1", ... in the order of `variables`."""
        for number, variable in enumerate(self.network.variables):
            store[str(number)] = variable

    def load_own_variables(self, store: Any) -> None:
        """Reads what save_own_variables wrote.

        Raises:
          ValueError: the number of variables or their values are not as saved.
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
