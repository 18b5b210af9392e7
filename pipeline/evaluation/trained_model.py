"""A trained model from the directory of its run alone: its data set is not needed."""
import dataclasses

import keras
import numpy as np
import tensorflow as tf

from pipeline import extension as extensions
from pipeline import keras_import
from pipeline.config import AS_TRAINED, ExperimentConfig
from pipeline.models import registry
from pipeline.models.freezing import freeze
from pipeline.run_directory import evaluates_average, stored_config
from pipeline.training.inference import Inference
from pipeline.training.settings import StepSettings
from pipeline.training.stored_weights import described, load_weights


@dataclasses.dataclass
class TrainedModel:
    """A model with the weights of a checkpoint, and what its images need before it sees them.

    Attributes:
      config: ExperimentConfig of its run.
      stored: what config.json of the run holds.
      model: built keras.Model.
      class_names: tuple of str, in the order of the logits.
      image_shape: (height, width, channels) of the uint8 images it takes.
      steps: global steps of the checkpoints its weights are the mean of, newest first.
      weights: which weights of these checkpoints, in words.
      inference: Inference.
    """

    config: ExperimentConfig
    stored: dict
    model: object
    class_names: tuple
    image_shape: tuple
    steps: tuple
    inference: Inference
    weights: str = AS_TRAINED

    @classmethod
    def load(cls, directory, checkpoint="newest", ema=None, average=1, precision=None, batch_size=None,
             extension=None):
        """Builds the model of a run and reads its weights.

        Args:
          directory: RunDirectory of an existing run.
          checkpoint: "newest", "best", a step, or a path without suffix.
          ema: take the moving average of the weights; None: where the run evaluates that.
          average: mean of the weights of this many checkpoints, the named one and those before it.
          precision: one of pipeline.config.PRECISIONS; default that of the run.
          batch_size: most images computed at once; default that of training.
          extension: where the files of its own code lie now; default where they were.

        Raises:
          UsageError: there is no such checkpoint, or too few of them.
        """
        keras_import.set_defaults()
        directory, stored = stored_config(directory.path)
        config = ExperimentConfig.from_flat({**stored["config"], **({"precision": precision} if precision else {}),
                                             **({"extension": extension} if extension else {})})
        extensions.load(config.data.extension, stored.get("extensions"))
        model = create_model(config, stored)
        ema = evaluates_average(stored) if ema is None else ema
        found = load_weights(model, directory.file("checkpoints"), checkpoint, ema, average)
        inference = Inference(tf.distribute.get_strategy(), model, inference_settings(config, stored, batch_size))
        steps = tuple(c.step for c in found)
        return cls(config, stored, model, tuple(stored["data"]["class_names"]), tuple(stored["data"]["image_shape"]),
                   steps, inference, described(steps, ema))

    @property
    def step(self):
        """Global step of its newest checkpoint."""
        return self.steps[0]

    def logits(self, images):
        """Returns float32 [n, classes] for uint8 [n, H, W, C] images of `image_shape`; numpy arrays."""
        return self._in_batches(self.inference.logits, images)

    def probabilities(self, images):
        """Returns float32 [n, classes], softmax of `logits`."""
        logits = self.logits(images).astype(np.float64)
        exponents = np.exp(logits - logits.max(axis=-1, keepdims=True))
        return (exponents / exponents.sum(axis=-1, keepdims=True)).astype(np.float32)

    def saliency(self, images, classes):
        """Returns float32 [n, H, W] >= 0: how much each pixel moves the logit of the class, int [n]; see Inference."""
        return self._in_batches(self.inference.saliency, images, np.asarray(classes, np.int32))

    def _in_batches(self, function, *arrays):
        size, count = self.inference.settings.batch_size, len(arrays[0])
        parts = [function(*(tf.constant(a[first:first + size]) for a in arrays)).numpy().astype(np.float32)
                 for first in range(0, count, size)]
        return np.concatenate(parts) if parts else np.zeros([0, len(self.class_names)], np.float32)


def create_model(config, stored):
    """Makes the model of a run, with fresh weights, in the precision of a configuration; what it froze is frozen.

    Args:
      config: ExperimentConfig.
      stored: what config.json of the run holds.
    """
    height, width, channels = stored["data"]["image_shape"]
    wanted, before = registry.wanted_channels(config.model.model, channels), keras.config.dtype_policy()
    keras.config.set_dtype_policy(config.runtime.precision)
    try:
        model = registry.create(config.model.model, len(stored["data"]["class_names"]), (height, width, wanted),
                                config.model.model_options, config.model.batch_norm_momentum)
        freeze(model, config.model.freeze, (height, width, wanted))
        return model
    finally:
        keras.config.set_dtype_policy(before)


def inference_settings(config, stored, batch_size=None):
    """Returns the StepSettings of forward passes of a run; the arguments are those of TrainedModel.load."""
    normalization = stored.get("normalization") or {}
    return StepSettings(
        batch_size=batch_size or config.training.batch_size, micro_batches=1, seed=config.training.seed,
        compute_dtype="float64" if config.runtime.precision == "float64" else "float32",
        image_channels=registry.wanted_channels(config.model.model, stored["data"]["image_shape"][-1]),
        image_mean=normalization.get("mean"), image_std=normalization.get("deviation"))
