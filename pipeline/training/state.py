"""What changes while a model trains: exactly what a checkpoint holds."""
import contextlib

import numpy as np
import tensorflow as tf

INITIAL_LOSS_SCALE = 2.0**15
UNSCALED = -1  # Instead of a count of finite steps, where the loss is not scaled.
LOSS_SCALE_GROWTH_STEPS = 2000  # Finite steps after which the loss scale doubles (Keras's LossScaleOptimizer does so).


class TrainState:
    """Variables of a model, its optimizer and the run itself, mirrored over the replicas.

    Attributes:
      model: a built keras.Model.
      optimizer: a built keras optimizer.
      ema: list of tf.Variable, moving averages of the model's float variables in their order, [] without.
      global_step: int64 scalar, steps done, skipped ones included.
      skipped_steps: int64 scalar, steps whose gradient was not finite.
      position: int64 scalar, position in the stream of examples at which the next step begins.
      loss_scale: float32 scalar, 1 where no scaling is needed.
      finite_steps: int64 scalar, finite steps since the loss scale changed, or UNSCALED.
      learning_rate_factor: float32 scalar, what a rollback has multiplied the rate by.
      rollbacks: int64 scalar, how often a divergence has made the run go back.
      diverged_steps: int64 scalar, the newest steps in a row that had diverged.
      evaluated_step: int64 scalar, the step of the newest evaluation.
      best_value, best_step, evaluations_since_best: the best evaluation so far (float64, int64, int64).
    """

    def __init__(self, model, optimizer, with_ema=False, scale_loss=False, held=()):
        """Makes the variables; call it inside the strategy's scope.

        Args:
          held: keras.Variables of the model that no step changes: they are frozen.
        """
        self.model, self.optimizer = model, optimizer
        self._held = {id(v) for v in held}

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

    def averaged(self):
        """Returns the model's variables that an exponential moving average follows: the float ones, in order."""
        return averaged(self.model)

    def changing(self, values):
        """Leaves out what belongs to frozen variables; `values` has one entry a non-trainable variable, in order.

        A frozen weight may not pass through the reduction: the mean of three equal numbers is not always that number.
        """
        return [value for value, variable in zip(values, self.model.non_trainable_variables, strict=True)
                if id(variable) not in self._held]

    def counters(self):
        """Returns {name: tf.Variable} of everything but model, optimizer and averages."""
        return {name: value for name, value in vars(self).items() if isinstance(value, tf.Variable)}

    def checkpoint(self):
        """Returns a tf.train.Checkpoint over flat lists of variables, in the model's order.

        Flat lists hold every variable by construction; Keras's object graph can lose those in nested containers.
        """
        return tf.train.Checkpoint(
            model=[v.value for v in self.model.variables],
            optimizer=[v.value for v in self.optimizer.variables], ema=self.ema, **self.counters())

    def fit_precision(self, scale_loss):
        """Adapts the loss scale that was restored where a run goes on in another precision."""
        if scale_loss and int(self.finite_steps.numpy()) == UNSCALED:
            self.loss_scale.assign(INITIAL_LOSS_SCALE)
            self.finite_steps.assign(0)
        elif not scale_loss:
            self.loss_scale.assign(1.0)
            self.finite_steps.assign(UNSCALED)

    def forget_best(self):
        """Starts looking for the best evaluation anew: what makes one the best has changed."""
        self.best_value.assign(np.nan)
        self.best_step.assign(-1)
        self.evaluations_since_best.assign(0)

    def specs(self):
        """Returns {"model", "optimizer", "ema": [[path, shape, dtype], ...]}, to name what does not fit."""
        return {"model": specs(self.model.variables), "optimizer": specs(self.optimizer.variables),
                "ema": specs(self.ema)}

    def use_ema(self):
        """Overwrites the model's float variables by their moving averages."""
        for variable, average in zip(self.averaged(), self.ema, strict=True):
            variable.assign(tf.convert_to_tensor(average))

    @contextlib.contextmanager
    def moving_average(self):
        """Lets the model have the moving averages of its weights in the block, and its own again after it, bit for bit.

        Nothing may be saved or trained in the block.
        """
        own = [tf.identity(tf.convert_to_tensor(variable)) for variable in self.averaged()]
        try:
            self.use_ema()
            yield
        finally:
            for variable, value in zip(self.averaged(), own, strict=True):
                variable.assign(value)


def averaged(model):
    """Returns the variables of a model that averages are taken of: the float ones, in order."""
    return [v for v in model.variables if tf.as_dtype(v.dtype).is_floating]


def specs(variables):
    """Returns [[path, shape, dtype], ...] of variables, Keras's or TensorFlow's."""
    return [[getattr(v, "path", v.name), list(v.shape), tf.as_dtype(v.dtype).name] for v in variables]
