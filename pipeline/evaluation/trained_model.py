"""A trained model from the directory of its run, without its data set."""
import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from scipy.special import softmax

from pipeline import extension as extensions
from pipeline import keras_import
from pipeline.config import AS_TRAINED, ExperimentConfig
from pipeline.models import registry
from pipeline.models.freezing import FreezeSchedule
from pipeline.models.trained_weights import trained_weights
from pipeline.preprocessing import Preprocessing
from pipeline.run_directory import RunDirectory, evaluates_average, stored_config
from pipeline.training.cadence import plan
from pipeline.training.inference import Inference
from pipeline.training.settings import StepSettings
from pipeline.training.stored_weights import described, load_weights


@dataclasses.dataclass
class TrainedModel:
    """A model with the weights of a checkpoint, and the preprocessing of its images.

    Attributes:
      config: ExperimentConfig of its run.
      stored: content of the run's config.json.
      model: built keras.Model.
      class_names: tuple of str, in the order of the logits.
      preprocessing: how files become its uint8 images.
      steps: global steps of the checkpoints whose mean its weights are, latest first.
      weights: which weights of these checkpoints, in words.
      inference: Inference.
    """

    config: ExperimentConfig
    stored: Mapping[str, Any]
    model: keras.Model
    class_names: tuple[str, ...]
    preprocessing: Preprocessing
    steps: tuple[int, ...]
    inference: Inference
    weights: str = AS_TRAINED

    @classmethod
    def load(cls, directory: RunDirectory, checkpoint: str = "latest", ema: bool | None = None, average: int = 1,
             precision: str | None = None, batch_size: int | None = None,
             extension: Sequence[str] | None = None) -> "TrainedModel":
        """Builds the model of a run and reads its weights.

        Args:
          directory: RunDirectory of an existing run.
          checkpoint: "latest", "best", a step, or a path without suffix.
          ema: use the moving average of the weights; None: where the run evaluates that.
          average: mean of the weights of this many checkpoints, the given one and those before it.
          precision: one of pipeline.config.PRECISIONS; default that of the run.
          batch_size: largest number of images computed at once; default that of training.
          extension: paths of the files of its own code; default those of the run.

        Raises:
          UsageError: there is no such checkpoint, or too few of them.
        """
        keras_import.set_defaults()
        directory, stored = stored_config(directory.path)
        config = ExperimentConfig.from_flat({**stored["config"], **({"precision": precision} if precision else {}),
                                             **({"extension": extension} if extension else {})})
        extensions.load(config.data.extension, stored.get("extensions") or ())
        model, freezing = create_model(config, stored)
        ema = evaluates_average(stored) if ema is None else ema
        found = load_weights(model, directory.file("checkpoints"), checkpoint, ema, average)
        inference = Inference(tf.distribute.get_strategy(), model, inference_settings(config, stored, batch_size))
        steps = tuple(c.step for c in found)
        freezing.enter(steps[0])
        return cls(config, stored, model, tuple(stored["data"]["class_names"]), Preprocessing.of_run(stored),
                   steps, inference, described(steps, ema))

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """(height, width, channels) of its uint8 images."""
        return self.preprocessing.image_shape

    @property
    def step(self) -> int:
        """Global step of its latest checkpoint."""
        return self.steps[0]

    def logits(self, images: np.ndarray) -> np.ndarray:
        """Returns float32 [n, classes] for uint8 [n, H, W, C] images of `image_shape`; numpy arrays."""
        return self._in_batches(self.inference.logits, images)

    def probabilities(self, images: np.ndarray) -> np.ndarray:
        """Returns float32 [n, classes], softmax of `logits`."""
        return softmax(self.logits(images).astype(np.float64), axis=-1).astype(np.float32)

    def saliency(self, images: np.ndarray, classes: np.ndarray) -> np.ndarray:
        """Returns float32 [n, H, W] >= 0: how much each pixel changes the logit of a class, int [n]; see Inference."""
        return self._in_batches(self.inference.saliency, images, np.asarray(classes, np.int32))

    def _in_batches(self, function: Callable, *arrays: np.ndarray) -> np.ndarray:
        size, count = self.inference.settings.batch_size, len(arrays[0])
        parts = [function(*(tf.constant(a[first:first + size]) for a in arrays)).numpy().astype(np.float32)
                 for first in range(0, count, size)]
        return np.concatenate(parts) if parts else np.zeros([0, len(self.class_names)], np.float32)


def create_model(config: ExperimentConfig, stored: Mapping[str, Any]) -> tuple[keras.Model, FreezeSchedule]:
    """Creates the model of a run with fresh weights, in the precision of a configuration, and what it freezes."""
    height, width, channels = stored["data"]["image_shape"]
    wanted, before = registry.wanted_channels(config.model.model, channels), keras.config.dtype_policy()
    keras.config.set_dtype_policy(config.runtime.precision)
    try:
        model = registry.create(config.model.model, len(stored["data"]["class_names"]), (height, width, wanted),
                                config.model.model_options, config.model.batch_norm_momentum)
        thaws = plan(config, stored["data"]["num_train"]).thaws
        return model, trained_weights(model, config, (height, width, wanted), thaws).freezing
    finally:
        keras.config.set_dtype_policy(before)


def inference_settings(config: ExperimentConfig, stored: Mapping[str, Any], batch_size: int | None = None
                       ) -> StepSettings:
    """Returns the StepSettings of forward passes of a run; the arguments are those of TrainedModel.load."""
    normalization = stored.get("normalization") or {}
    return StepSettings(
        batch_size=batch_size or config.training.batch_size, micro_batches=1, seed=config.training.seed,
        compute_dtype="float64" if config.runtime.precision == "float64" else "float32",
        image_channels=registry.wanted_channels(config.model.model, stored["data"]["image_shape"][-1]),
        image_mean=normalization.get("mean"), image_std=normalization.get("deviation"),
        input_range=Preprocessing.of_run(stored).input_range)
