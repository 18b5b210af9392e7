"""The training state: exactly what a checkpoint holds."""
import contextlib
from collections.abc import Iterator, Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf

INITIAL_LOSS_SCALE = 2.0**15
UNSCALED = -1  # Value of finite_steps without a dynamic loss scale.
LOSS_SCALE_GROWTH_STEPS = 2000  # Finite steps after which the loss scale doubles, as in Keras's LossScaleOptimizer.


class TrainState:
    """Variables of a model, its optimizer and the run itself, mirrored over the replicas.

    Attributes:
      model: a built keras.Model.
      optimizer: a built keras optimizer.
      ema: list of tf.Variable, moving averages of the model's float variables in their order, [] without.
      global_step: int64 scalar, steps done, including skipped ones.
      skipped_steps: int64 scalar, steps whose gradient was not finite.
      position: int64 scalar, position in the stream of examples at which the next step starts.
      loss_scale: float32 scalar, 1 without scaling.
      finite_steps: int64 scalar, finite steps since the loss scale changed, or UNSCALED.
      learning_rate_factor: float32 scalar, product of the factors of all rollbacks.
      rollbacks: int64 scalar, number of rollbacks.
      diverged_steps: int64 scalar, number of consecutive diverged steps up to now.
      evaluated_step: int64 scalar, step of the latest evaluation, -1 for none.
      best_value, best_step, evaluations_since_best: the best evaluation so far (float64, int64, int64).
    """

    def __init__(self, model: keras.Model, optimizer: keras.optimizers.Optimizer, with_ema: bool = False,
                 scale_loss: bool = False, held: Sequence[keras.Variable] = (),
                 unclipped: Sequence[keras.Variable] = ()):
        """Creates the variables; call it inside the strategy's scope.

        Args:
          model: built.
          optimizer: built.
          with_ema: keep a moving average of the weights.
          scale_loss: whether the loss scale is dynamic.
          held: frozen variables of the model.
          unclipped: variables of the model that --clip=agc leaves out.
        """
        self.model, self.optimizer, self.unclipped = model, optimizer, tuple(unclipped)
        self.hold(held)

        def counter(name, value=0, dtype=tf.int64):
            return tf.Variable(value, trainable=False, name=name, dtype=dtype,
                               aggregation=tf.VariableAggregation.ONLY_FIRST_REPLICA)

        self.global_step = counter("global_step")
        self.skipped_steps = counter("skipped_steps")
        self.position = counter("position")
        self.loss_scale = counter("loss_scale", INITIAL_LOSS_SCALE if scale_loss else 1.0, tf.float32)
        self.finite_steps = counter("finite_steps", 0 if scale_loss else UNSCALED)
        self.learning_rate_factor = counter("learning_rate_factor", 1.0, tf.float32)
        self.rollbacks = counter("rollbacks")
        self.diverged_steps = counter("diverged_steps")
        self.evaluated_step = counter("evaluated_step", -1)
        self.best_value = counter("best_value", np.nan, tf.float64)
        self.best_step = counter("best_step", -1)
        self.evaluations_since_best = counter("evaluations_since_best")
        self.ema = [tf.Variable(v.value, trainable=False, name=f"ema_{i}") for i, v in enumerate(self.averaged())
                    ] if with_ema else []

    def hold(self, held: Sequence[keras.Variable]) -> None:
        """Sets the frozen variables of the model, which `changing` leaves out."""
        self._held = {id(v) for v in held}

    def averaged(self) -> list[keras.Variable]:
        """Returns the model's variables that an exponential moving average follows: the float ones, in order."""
        return averaged(self.model)

    def changing(self, values: Sequence) -> list:
        """Filters values of the non-trainable variables, given in their order: leaves out those of frozen variables.

        A frozen weight may not pass through the reduction: the mean of three equal numbers is not always that number.
        """
        return [value for value, variable in zip(values, self.model.non_trainable_variables, strict=True)
                if id(variable) not in self._held]

    def counters(self) -> dict[str, tf.Variable]:
        """Returns all variables but those of model, optimizer and averages, by name."""
        return {name: value for name, value in vars(self).items() if isinstance(value, tf.Variable)}

    def checkpoint(self) -> tf.train.Checkpoint:
        """Returns a tf.train.Checkpoint over flat lists of variables, in the model's order.

        Flat lists hold every variable by construction; Keras's object graph can lose those in nested containers.
        """
        return tf.train.Checkpoint(
            model=[v.value for v in self.model.variables],
            optimizer=[v.value for v in self.optimizer.variables], ema=self.ema, **self.counters())

    def fit_precision(self, scale_loss: bool) -> None:
        """Adapts the restored loss scale if the run continues in another precision."""
        if scale_loss and int(self.finite_steps.numpy()) == UNSCALED:
            self.loss_scale.assign(INITIAL_LOSS_SCALE)
            self.finite_steps.assign(0)
        elif not scale_loss:
            self.loss_scale.assign(1.0)
            self.finite_steps.assign(UNSCALED)

    def forget_best(self) -> None:
        """Resets the best evaluation, after a change of what makes one the best."""
        self.best_value.assign(np.nan)
        self.best_step.assign(-1)
        self.evaluations_since_best.assign(0)

    def specs(self) -> dict[str, list]:
        """Returns {"model", "optimizer", "ema": [[path, shape, dtype], ...]}, by which a checkpoint is checked."""
        return {"model": specs(self.model.variables), "optimizer": specs(self.optimizer.variables),
                "ema": specs(self.ema)}

    def use_ema(self) -> None:
        """Assigns the moving averages to the model's float variables."""
        for variable, average in zip(self.averaged(), self.ema, strict=True):
            variable.assign(tf.convert_to_tensor(average))

    @contextlib.contextmanager
    def moving_average(self) -> Iterator[None]:
        """Gives the model the moving averages of its weights in the block, and restores its own bits afterwards.

        Nothing may be saved or trained in the block.
        """
        own = [tf.identity(tf.convert_to_tensor(variable)) for variable in self.averaged()]
        try:
            self.use_ema()
            yield
        finally:
            for variable, value in zip(self.averaged(), own, strict=True):
                variable.assign(value)


def averaged(model: keras.Model) -> list[keras.Variable]:
    """Returns the float variables of a model, of which averages are taken, in order."""
    return [v for v in model.variables if tf.as_dtype(v.dtype).is_floating]


def specs(variables: Sequence[Any]) -> list[list]:
    """Returns [[path, shape, dtype], ...] of variables of Keras or TensorFlow."""
    return [[getattr(v, "path", v.name), list(v.shape), tf.as_dtype(v.dtype).name] for v in variables]
