"""The training step: a pure core inside a mirrored shell.

    pure(params, state, batch)      -> grads, new state, sums          tensors only; XLA may compile it
    reduce(grads, new state, sums)  -> the same on every replica       one packed reduction
    decide                             finite? loss scale, clipping: on reduced values
    apply                              the optimizer, once, or not at all

With inference.py the only file of the engine with tf.GradientTape, tf.function and strategy.run.
"""
import functools
import math
from collections.abc import Callable
from typing import Any

import tensorflow as tf

from pipeline.distributed.input_distribution import InputDistributor
from pipeline.distributed.reduction import reduce_once
from pipeline.models.calling import call_in_training
from pipeline.models.context import StepContext, step_context
from pipeline.training import averages
from pipeline.training.gradients import clip, clip_units, is_finite, unscale
from pipeline.training.inference import Inference
from pipeline.training.losses import training_losses, with_wide_labels
from pipeline.training.settings import StepSettings, augment_batch, preprocess
from pipeline.training.state import LOSS_SCALE_GROWTH_STEPS, TrainState

# weight_norm and update_ratio: norm of all weights after the step, and norm of their change over it; NaN on steps that
# do not measure them. top5_accuracy: NaN with five classes or fewer. input_wait: seconds the step waited for its batch.
TRAIN_COLUMNS = ("loss", "accuracy", "learning_rate", "gradient_norm", "loss_scale", "applied", "weight_norm",
                 "update_ratio", "top5_accuracy", "input_wait")
SUMS = ("objective", "correct", "top5_correct", "weight")  # Over the examples of a step.
WEIGHTS_EVERY = 20  # Steps at whose multiples weights are measured.
PHASES = ("forward", "backward", "reduction")  # In order; the update follows.


class StepFunctions:
    """The compiled functions of one experiment: `train_steps`, `reduced_gradients`, and those of `inference`.

    Which weights train is part of the trace: frozen ones are constants of it, cost no gradient, and their layers run as
    frozen ones. So the functions are made again (`trace`) where that changes.
    """

    def __init__(self, strategy: tf.distribute.Strategy, state: TrainState, schedule: Callable,
                 settings: StepSettings, fault: Callable | None = None, image_size: int | None = None):
        """
        Args:
          state: created in its scope.
          schedule: function of the global step to the learning rate.
          fault: injects faults, for `mirrorline verify`: a function (grads, replica, step) -> grads, applied on each
            replica before the reduction; replica and step are int64 scalars.
          image_size: height and width to which batches are resized where they are augmented in the step; part of the
            trace, see Experiment.enter_phase.
        """
        self.strategy, self.state, self.schedule, self.settings = strategy, state, schedule, settings
        self._fault, self.image_size = fault, image_size
        self.num_replicas = strategy.num_replicas_in_sync
        self.input_distributor = InputDistributor(strategy, settings.batches_ahead)
        self.micro_batch_size = settings.batch_size // (self.num_replicas * settings.micro_batches)
        self.inference = Inference(strategy, state.model, settings, self.input_distributor)
        self.trace()

    def trace(self) -> None:
        """Makes the functions of the step again: their next call traces the weights that train then."""
        self._compute = self._compile(self._pure)
        # Without AutoGraph: it writes what it generates into the folder for temporary files, which may be full.
        self.train_steps, self.reduced_gradients = (
            tf.function(f, autograph=False) for f in (self._train_steps, self._reduced_gradients))
        # For the benchmark of the phases of a step.
        self.partial_steps = {phase: tf.function(functools.partial(self._partial_steps, phase), autograph=False)
                              for phase in PHASES}

    def _pure(self, params, state, batch, draw_index, first_row, statistics_updates, loss_scale):
        """Gradients, new state and sums of one micro-batch on one replica; tensors in, tensors out.

        Args:
          params, state: lists of tensors in the order of the model's trainable and non-trainable variables.
          batch: {"image": uint8 [b, H, W, C], "label": int64 [b], "weight": float32 [b], optionally "mix"}.
          draw_index, first_row, statistics_updates: int64 scalars, see StepContext.
          loss_scale: float scalar.

        Returns:
          (grads of loss_scale times this replica's part of the objective, new state, [len(SUMS)] SUMS).
        """
        with tf.GradientTape() as tape:
            tape.watch(params)
            state, sums = self._forward(params, state, batch, draw_index, first_row, statistics_updates)
            scaled = sums[0] * tf.cast(loss_scale, sums.dtype)
        grads = tape.gradient(scaled, params, unconnected_gradients=tf.UnconnectedGradients.ZERO)
        return grads, state, sums

    def _forward(self, params, state, batch, draw_index, first_row, statistics_updates):
        """Returns (new state, [len(SUMS)] SUMS); the arguments are those of `_pure`."""
        settings = self.settings
        context = StepContext(settings.seed, draw_index, first_row, statistics_updates,
                              settings.synchronize, self.num_replicas)
        with step_context(context):
            logits, state, extra = call_in_training(self.state.model, params, state,
                                                    preprocess(batch["image"], settings))
            loss, *correct = training_losses(tf.cast(logits, settings.compute_dtype), batch, settings.label_smoothing,
                                             settings.class_weights, settings.loss)
            weight = tf.reduce_sum(tf.cast(batch["weight"], loss.dtype))
            objective = tf.reduce_sum(loss) / settings.batch_size + self._layer_losses(extra, weight)
        return state, tf.stack([objective, *map(tf.reduce_sum, correct), weight])

    def _layer_losses(self, losses, weight):
        """Sums the losses of layers: activity losses as example-weighted means, regularizers once over all parts.

        The regularizers of trainable variables are last in the list.
        """
        dtype = self.settings.compute_dtype
        regularizers = sum(v.regularizer is not None for v in self.state.model.trainable_variables)
        activity, penalties = losses[:len(losses) - regularizers], losses[len(losses) - regularizers:]
        parts = self.num_replicas * self.settings.micro_batches
        total = tf.zeros([], dtype)
        for loss in activity:
            total += tf.cast(loss, dtype) * weight / self.settings.batch_size
        for penalty in penalties:
            total += tf.cast(penalty, dtype) / parts
        return total

    def _accumulate(self, compute, batch, step, skipped, loss_scale):
        """Runs `compute`, which is called as `_pure`, on the micro-batches of this replica's rows, one after another.

        Gradients and sums are added, the state is passed on from each to the next.
        """
        rows, model = self.settings.batch_size // self.num_replicas, self.state.model
        batch = {key: tf.ensure_shape(value, [rows, *value.shape[1:]])
                 for key, value in with_wide_labels(self.input_distributor.rows(batch)).items()}
        if "position" in batch:
            batch = augment_batch(batch, batch.pop("position"), self.settings, self.image_size)
        params = [tf.convert_to_tensor(v.value) for v in model.trainable_variables]
        state = [tf.convert_to_tensor(v.value) for v in model.non_trainable_variables]
        k, size = self.settings.micro_batches, self.micro_batch_size
        replica = tf.cast(tf.distribute.get_replica_context().replica_id_in_sync_group, tf.int64)
        total, sums = None, None
        for m in range(k):
            part = batch
            if k > 1:
                # Without the dependency all micro-batches may be in memory at once.
                with tf.control_dependencies(total or []):
                    part = {key: value[m * size:(m + 1) * size] for key, value in batch.items()}
            updates = (step - skipped) * k + m + self.settings.earlier_updates
            grads, state, part_sums = compute(
                params, state, part, step * k + m, replica * size, updates, loss_scale)
            total = grads if total is None else [a + b for a, b in zip(total, grads, strict=True)]
            sums = part_sums if sums is None else sums + part_sums
        return total, self.state.changing(state), sums

    def _replica_step(self, batch, step, skipped, loss_scale):
        """One replica's part of a step up to the decision: reduced, unscaled, clipped gradients."""
        dtype = self.settings.compute_dtype
        grads, state, sums = self._accumulate(self._compute, batch, step, skipped, loss_scale)
        if self._fault:
            replica = tf.distribute.get_replica_context().replica_id_in_sync_group
            grads = self._fault(grads, tf.cast(replica, tf.int64), step)
        grads, state, sums = self._reduce(grads, state, sums)
        if self.settings.scale_loss:
            grads = unscale(grads, loss_scale)
        norm = tf.linalg.global_norm(grads)
        if self.settings.clip_norm:
            grads = clip(grads, norm, self.settings.clip_norm)
        if self.settings.clip_ratio:
            grads = clip_units(grads, self.state.model.trainable_variables, self.settings.clip_ratio,
                               self.state.unclipped)
        return grads, state, sums, tf.cast(norm, dtype), is_finite(norm, sums[0])

    def _reduce(self, grads, state, sums):
        return reduce_once(grads, state, sums, self.num_replicas, self.settings.bucket_bytes)

    def _partial_step(self, phase, batch, step, skipped, loss_scale):
        """One replica's part of a step up to a phase.

        Returns:
          float64 [2]: the loss, and a number that depends on everything computed: TensorFlow removes operations whose
          values are not used.
        """
        compute = self._compile(lambda *args: ([], *self._forward(*args[:-1]))) if phase == "forward" else self._compute
        grads, state, sums = self._accumulate(compute, batch, step, skipped, loss_scale)
        if phase == "reduction":
            grads, state, sums = self._reduce(grads, state, sums)
        used = [tf.cast(tf.reshape(value, [-1])[0], tf.float64) for value in [*grads, *state, sums[1:]]]
        return tf.stack([tf.cast(sums[0], tf.float64), tf.add_n(used)])

    def _partial_steps(self, phase, iterator, num_steps):
        """Computes `num_steps` steps up to one of PHASES and applies nothing; else as `_train_steps`.

        Returns:
          float64 [2]: the loss of the last step, and a number that depends on everything computed.
        """
        def one_more(i, done):
            with tf.control_dependencies([done]):  # One after the other.
                batch = iterator.get_next()
            found = self._first(self.strategy.run(self._partial_step, args=(phase, batch, *self._counters())))
            return i + 1, tf.stack([found[0], done[1] + found[1]])

        start = (tf.constant(0), tf.zeros([2], tf.float64))
        return tf.while_loop(lambda i, done: i < num_steps, one_more, start)[1]

    def _compile(self, function):
        """Returns the function, compiled by XLA if the settings ask for it."""
        return tf.function(function, jit_compile=True, autograph=False) if self.settings.xla else function

    def _apply_gradients(self, grads):
        self.state.optimizer.apply(grads, self.state.model.trainable_variables)

    def _apply(self, grads, state, step):
        """Updates weights, statistics and averages, in cross-replica context, on steps that are not skipped."""
        self.strategy.run(self._apply_gradients, args=(grads,))
        extended = self.strategy.extended
        changing = self.state.changing(self.state.model.non_trainable_variables)
        for variable, value in zip(changing, state, strict=True):
            extended.update(variable.value, lambda v, new: v.assign(new), args=(value,), group=False)
        averages.update(self.strategy, self.state, self.settings, step)

    def _finish(self, finite):
        """Counts the step and adapts the loss scale, the same on every replica."""
        state = self.state
        if self.settings.scale_loss:
            grown = finite & (state.finite_steps + 1 >= LOSS_SCALE_GROWTH_STEPS)
            scale = tf.where(grown, state.loss_scale * 2.0, state.loss_scale)
            state.loss_scale.assign(tf.where(finite, scale, tf.maximum(state.loss_scale * 0.5, 1.0)))
            kept = tf.where(grown, tf.zeros([], tf.int64), state.finite_steps + 1)
            state.finite_steps.assign(tf.where(finite, kept, tf.zeros([], tf.int64)))
        state.skipped_steps.assign_add(tf.cast(~finite, tf.int64))
        state.global_step.assign_add(1)
        state.position.assign_add(self.settings.batch_size)

    def _train_steps(self, iterator, num_steps):
        """Runs `num_steps` steps in one host call.

        Args:
          iterator: of the stream of global batches, see InputDistributor.
          num_steps: int32 scalar tensor (a tensor, so that another number is not another trace).

        Returns:
          [num_steps, len(TRAIN_COLUMNS)] float64, a row a step.
        """
        def one_more(i, rows):
            return i + 1, rows.write(i, self._step(iterator))

        rows = tf.TensorArray(tf.float64, size=num_steps, element_shape=[len(TRAIN_COLUMNS)])
        return tf.while_loop(lambda i, rows: i < num_steps, one_more, (tf.constant(0), rows))[1].stack()

    def _step(self, iterator):
        """One step on the next batch; returns its row, [len(TRAIN_COLUMNS)] float64."""
        state, settings, first = self.state, self.settings, self._first
        step, skipped, scale = self._counters()
        rate = self.schedule(step) * state.learning_rate_factor
        state.optimizer.learning_rate = rate
        batch = iterator.get_next()
        wait = self.input_distributor.wait(skipped, batch)  # The number of skipped steps is counted with the decision.
        grads, new_state, sums, norm, finite = self.strategy.run(self._replica_step, args=(batch, step, skipped, scale))
        finite, sums, norm = first(finite), first(sums), first(norm)
        measured = tf.equal((step + 1) % WEIGHTS_EVERY, 0)
        before = self._weights(measured)

        def apply():
            self._apply(grads, new_state, step - skipped)
            return True

        tf.cond(finite, apply, lambda: False)  # The same on every replica: it looks at reduced values.
        averages.take_part(self.strategy, state, settings, step)
        self._finish(finite)
        accuracy, top5_accuracy = sums[1] / settings.batch_size, sums[2] / settings.batch_size
        row = [sums[0], accuracy, rate, norm, scale, finite, *self._moved(measured, before), top5_accuracy, wait]
        return tf.stack([tf.cast(value, tf.float64) for value in row])

    def _weights(self, measured):
        """Returns the values of the trainable variables, or empty tensors on steps that do not measure them.

        An update of a variable whose value is still referenced copies it.
        """
        weights = self.state.model.trainable_variables
        return tf.cond(measured, lambda: [tf.identity(tf.convert_to_tensor(v.value)) for v in weights],
                       lambda: [tf.zeros([0] * len(v.shape), v.value.dtype) for v in weights])

    def _moved(self, measured, before):
        """Returns (norm of the trainable variables, norm of their change since `before` over it), or NaN twice."""
        def measure():
            now = [tf.convert_to_tensor(v.value) for v in self.state.model.trainable_variables]
            norm = tf.linalg.global_norm(now)
            change = tf.linalg.global_norm([new - old for new, old in zip(now, before, strict=True)])
            return tf.cast(norm, tf.float64), tf.cast(tf.math.divide_no_nan(change, norm), tf.float64)

        nan = tf.constant(math.nan, tf.float64)
        return tf.cond(measured, measure, lambda: (nan, nan))

    def _first(self, value):
        return self.strategy.experimental_local_results(value)[0]

    def _counters(self):
        state = self.state
        return [tf.convert_to_tensor(v) for v in (state.global_step, state.skipped_steps, state.loss_scale)]

    def _reduced_gradients(self, iterator):
        """Computes the gradients of the next batch as a step does, unscaled and clipped, and applies nothing.

        Args:
          iterator: of the stream of global batches, see InputDistributor.

        Returns:
          (gradients of the trainable variables in their order, loss).
        """
        grads, _, sums, _, _ = self.strategy.run(self._replica_step, args=(iterator.get_next(), *self._counters()))
        return [self._first(g) for g in grads], self._first(sums)[0]


def run_once(strategy: tf.distribute.Strategy, function: Callable) -> tuple[Any, ...]:
    """Runs a function on every replica inside a graph, as the step does.

    Args:
      function: called in a replica context with a float32 [1] of ones; returns a tensor or None.

    Returns:
      One result for each replica.
    """
    return strategy.experimental_local_results(
        tf.function(lambda: strategy.run(function, args=(tf.ones([1]),)), autograph=False)())
