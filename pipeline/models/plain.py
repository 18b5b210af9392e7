"""The model of a run as Keras itself would make it: what files of weights that Keras wrote are made for."""
import dataclasses
import warnings
from collections.abc import Sequence
from typing import Self

import keras
import numpy as np

from pipeline.architectures import ARCHITECTURES, Architecture
from pipeline.config import ModelConfig
from pipeline.errors import UsageError
from pipeline.internals.keras_internals import IMAGENET_STD, named_from_the_start
from pipeline.models import registry

IMAGENET_CLASSES = 1000


@dataclasses.dataclass(frozen=True)
class PlainModel:
    """The arguments of a model, to make it with or without its top, as a file has it.

    Attributes:
      name, options, batch_norm_momentum: as registry.create takes them.
      num_classes: of the run.
      image_shape: (height, width, channels) of its images.
    """

    name: str
    num_classes: int
    image_shape: tuple[int, int, int]
    options: Sequence[str] = ()
    batch_norm_momentum: float = 0.9

    @classmethod
    def of(cls, config: ModelConfig, num_classes: int, image_shape: tuple[int, int, int]) -> Self:
        """Returns that of a configuration."""
        return cls(config.model, num_classes, image_shape, config.model_options, config.batch_norm_momentum)

    @property
    def architecture(self) -> Architecture | None:
        """Its row among those of keras.applications, or None for another model."""
        return ARCHITECTURES.get(self.name)

    def make(self, top: bool = True) -> keras.Model:
        """Makes it with initial values; a model that is not of keras.applications has a top in any case."""
        row, classes, shape = self.architecture, self.num_classes, self.image_shape
        if row is None:
            return registry.create(self.name, classes, shape, self.options, self.batch_norm_momentum)
        return self._construct(row, include_top=top, classes=classes, input_shape=shape, weights=None)

    def published(self) -> keras.Model:
        """Makes it with the weights that Keras publishes, with a top if the run has its classes.

        Raises:
          UsageError: there are none for this model or these options.
        """
        row = self.architecture
        if row is None or row.top1 is None:
            raise UsageError(f"Keras publishes no weights for model {self.name}: give a file of it, or a model of "
                             "keras.applications such as efficientnet_v2_b0 (`mirrorline inspect --models` lists them)")
        top = self.num_classes == IMAGENET_CLASSES
        # With its top Keras makes it for images of its own size alone.
        return self._construct(row, include_top=top, input_shape=None if top else self.image_shape, weights="imagenet")

    def completed(self, values: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Returns weights with what Keras keeps outside of the published files of EfficientNet B0 to B7.

        There the variance of the input is the std, and Keras divides by its root once more, in a layer without weights
        that only models of weights="imagenet" have (tensorflow#49930). As a variance proper it needs no such layer.

        Args:
          values: {name: numpy array} of a file.
        """
        std = np.asarray(IMAGENET_STD, np.float32)
        if not (self.architecture and self.architecture.constructor.startswith("EfficientNetB")):
            return values
        return {name: std ** 2 if name.endswith("normalization/variance") and np.allclose(value, std) else value
                for name, value in values.items()}

    def _construct(self, row, **arguments):
        constructor = getattr(keras.applications, row.constructor)
        options = registry.parse_options(self.name, self.options)
        kept = {option: value for option, value in options.items() if option in row.options}
        try:
            # The warnings are about sizes of images for which there are no weights of their own.
            with named_from_the_start(), warnings.catch_warnings():
                warnings.simplefilter("ignore")
                return constructor(classifier_activation=None, **kept, **arguments)
        except ValueError as error:
            raise UsageError(f"model {self.name}: {str(error).splitlines()[0]}") from error
