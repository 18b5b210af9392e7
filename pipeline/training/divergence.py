"""Detection of divergence, and the layer in which it began."""
import dataclasses
from collections.abc import Sequence

import numpy as np
import tensorflow as tf

from pipeline.config import TrainingConfig
from pipeline.models.calling import call_in_training
from pipeline.models.context import StepContext, step_context
from pipeline.models.recording import record_outputs
from pipeline.training.experiment import Experiment
from pipeline.training.settings import preprocess
from pipeline.training.state import TrainState


@dataclasses.dataclass(frozen=True)
class Divergence:
    """Consecutive diverged steps: the first and the last, counted from 1, and the training loss of the last."""

    first_step: int
    last_step: int
    loss: float

    def __str__(self):
        return (f"the training loss diverged in steps {self.first_step} to {self.last_step} (loss {self.loss:g} in the "
                "last)")


class DivergenceGuard:
    """Checks the loss of every step; the number of consecutive diverged steps is part of the training state.

    A step has diverged if its loss is not finite or above the limit, or if its gradient is not finite although no loss
    scale can be lowered (in mixed_float16 a few infinite gradients are part of finding the scale).
    """

    def __init__(self, training: TrainingConfig, state: TrainState):
        self.ignores = training.on_divergence == "ignore"
        self.limit = training.loss_limit or np.inf
        self.needed, self._state = training.divergence_steps, state
        self._count = int(state.diverged_steps.numpy())
        if self.ignores:
            self.reset()  # Nor does it count for a later process that checks for divergence.

    @property
    def suspicious(self) -> bool:
        """Whether the latest step has diverged: such a state is not worth a checkpoint."""
        return self._count > 0

    def look(self, step: int, columns: Sequence[str], rows: np.ndarray) -> Divergence | None:
        """Checks a window of steps; returns a Divergence once enough consecutive steps have diverged.

        Args:
          step: global step at its end.
          columns: names of the columns of `rows`.
          rows: float64 [steps, columns].
        """
        if self.ignores:
            return None
        loss, scale, applied = (rows[:, columns.index(name)] for name in ("loss", "loss_scale", "applied"))
        with np.errstate(invalid="ignore"):
            diverged = ~np.isfinite(loss) | (loss > self.limit) | ((applied == 0) & (scale <= 1))
        for i, bad in enumerate(diverged.tolist()):
            self._set(self._count + 1 if bad else 0)
            if self._count >= self.needed:
                last = step - len(rows) + 1 + i
                return Divergence(last - self._count + 1, last, float(loss[i]))
        return None

    def reset(self) -> None:
        """Resets the count, after a rollback."""
        self._set(0)

    def _set(self, count):
        if count != self._count:
            self._count = count
            self._state.diverged_steps.assign(count)


def where_it_began(experiment: Experiment, first_step: int) -> str:
    """Computes the first diverged step again, layer by layer, with the current weights.

    A step that is not finite is skipped, so these are the weights it had. If the loss is finite but too large, they
    have changed since.

    Args:
      experiment: after the divergence.
      first_step: global step, counted from 1.

    Returns:
      A clause that names the layer or the weight.
    """
    experiment.enter_phase(first_step - 1)
    outputs = _outputs(experiment, first_step)
    broken = [name for name, value in outputs if not np.isfinite(value)]
    if broken:
        return f"it began in layer {broken[0]}, whose output is not finite"
    grads, _ = experiment.steps.reduced_gradients(experiment.train_iterator(first_step - 1))
    variables = experiment.state.model.trainable_variables
    broken = [v.path for v, g in zip(variables, grads, strict=True) if not np.isfinite(g.numpy()).all()]
    if broken:  # Gradients flow backwards, so it began in the last one.
        return f"it began in the gradient of {broken[-1]}, which is not finite"
    name, value = max(outputs, key=lambda output: output[1])
    return f"the largest output is that of layer {name}, {value:.3g}"


def _outputs(experiment, first_step):
    """Returns [(layer path, largest absolute output)] in the order of execution, over the batch of one step.

    In parts as large as those of the step, which fit in the memory of one device.
    """
    settings, model, part = experiment.settings, experiment.state.model, experiment.layout.part
    images = experiment.train_batch(first_step - 1)["image"]
    step = tf.constant(first_step - 1, tf.int64)
    updates, largest = step - tf.convert_to_tensor(experiment.state.skipped_steps), None
    for first in range(0, settings.batch_size, part):
        context = StepContext(settings.seed, step * settings.micro_batches, tf.constant(0, tf.int64), updates)
        with record_outputs(model) as outputs, step_context(context):
            call_in_training(model, [tf.convert_to_tensor(v) for v in model.trainable_variables],
                             [tf.convert_to_tensor(v) for v in model.non_trainable_variables],
                             preprocess(images[first:first + part], settings))
        # Every part calls the layers in the same order; np.maximum keeps NaN.
        largest = [(name, float(np.maximum(value, before))) for (name, value), (_, before) in
                   zip(outputs, largest or outputs, strict=True)]
    return largest
