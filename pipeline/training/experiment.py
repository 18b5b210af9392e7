"""Composition of an experiment from configuration, data, model, state and step."""
import contextlib
import dataclasses
import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence

import keras
import numpy as np
import tensorflow as tf

from pipeline.activity import STARTING, activity
from pipeline.augmentation import augmentations, check_strengths
from pipeline.config import ExperimentConfig, keeps_average
from pipeline.console import Console
from pipeline.data.load import load as load_data
from pipeline.data.source import Source, Split
from pipeline.data.splits import own_validation
from pipeline.data.stream import check_layout, eval_batches
from pipeline.distributed import devices
from pipeline.distributed.agreement import Workers
from pipeline.distributed.cluster import Cluster
from pipeline.errors import UsageError
from pipeline.export.weight_sources import find
from pipeline.metrics import evaluation as metrics
from pipeline.models import registry
from pipeline.models.classifier import check_input_shape
from pipeline.models.freezing import FreezeSchedule
from pipeline.models.initialization import Initialization, initialize
from pipeline.models.model_checks import check_compiled, check_size, departures
from pipeline.models.plain import PlainModel
from pipeline.models.trained_weights import TrainedWeights, trained_weights
from pipeline.monitoring import operations
from pipeline.preprocessing import of_begun
from pipeline.run_directory import evaluates_average
from pipeline.training import cadence
from pipeline.training.inference import Outputs
from pipeline.training.optimizer import add_l2, check_reduced_once, create_optimizer
from pipeline.training.phase import RunPhase
from pipeline.training.schedule import learning_rate_schedule
from pipeline.training.self_test import check_reduction
from pipeline.training.settings import step_settings
from pipeline.training.state import TrainState
from pipeline.training.step import StepFunctions, run_once
from pipeline.training.streams import Streams


@dataclasses.dataclass
class Experiment(Streams):
    """Configuration, data, model, state and step of one run.

    Attributes:
      source: the data.
      plan: lengths and intervals in steps.
      settings: of the step.
      state: model, optimizer and counters.
      steps: the compiled functions.
      workers: the processes of the run.
      trained: which weights train, from which step on, and how fast.
      initialization: the weights that the run started from, or None.
      evaluates_average: whether evaluations during training are of the moving average of the weights.
      step_operations: floating-point operations of a training step, None before they were counted.
    """

    workers: Workers
    trained: TrainedWeights
    initialization: Initialization | None
    evaluates_average: bool = False
    step_operations: float | None = None
    _evaluation_pace: cadence.StepsPerLoopController = dataclasses.field(default_factory=cadence.StepsPerLoopController)

    @property
    def watched(self) -> Split:
        """The split that is evaluated during training, see Source.watched."""
        return self.source.watched

    def evaluated_weights(self) -> contextlib.AbstractContextManager:
        """Returns a context in which the model has the weights that are evaluated during training."""
        return self.state.moving_average() if self.evaluates_average else contextlib.nullcontext()

    @property
    def freezing(self) -> FreezeSchedule:
        """Which weights are frozen at each step."""
        return self.trained.freezing

    def enter_phase(self, step: int) -> RunPhase:
        """Freezes what the step after `step` steps does not train, and sets the size of its images; returns both.

        What uses the step's functions at a step calls this first: they are traced again where either has changed.
        """
        size, thawed = self.plan.image_size(step), self.freezing.enter(step)
        if thawed or size != self.steps.image_size:
            self.state.hold(self.freezing.frozen.held)
            self.steps.image_size = size
            self.steps.trace()
        return RunPhase(self.freezing.frozen, size)

    def departures(self) -> list[tuple[str, str]]:
        """Lists why N replicas would not compute the same as one, once all is unfrozen; see model_checks.departures."""
        self.freezing.enter(self.plan.total_steps)
        found = departures(self.state.model)
        self.freezing.enter(0)
        return found

    def evaluation_due(self, step: int) -> bool:
        """Tells whether an evaluation is due at a step and has not been done."""
        plan = self.plan
        due = step > 0 and (step >= plan.total_steps or plan.is_boundary(plan.evaluate_every, step))
        return due and int(self.state.evaluated_step.numpy()) != step

    def learning_rate(self, step: int) -> float:
        """Returns the learning rate of the step after `step` steps."""
        factor = float(self.state.learning_rate_factor.numpy())
        return float(self.steps.schedule(tf.constant(step, tf.int64))) * factor

    def count_operations(self, iterator: Iterator) -> None:
        """Counts the operations of a training step in the graph traced with this iterator."""
        graph = self.steps.train_steps.get_concrete_function(iterator, tf.constant(1)).graph
        self.step_operations = operations.count(graph)

    def check_batches(self, begun_with: Sequence[str] = ()) -> None:
        """Raises UsageError if training batches cannot be made, before anything is written for a run.

        Args:
          begun_with: augmentations with which the run was started, see check_strengths.
        """
        check_layout(self.source.train, self.layout, augmentations(self.config.data))
        smallest = self.plan.image_size(0)
        check_strengths(self.config.data.augment, (smallest, smallest) if smallest else self.source.image_shape,
                        begun_with)

    def evaluate(self, split: Split, should_stop: Callable[[], bool] = lambda: False,
                 beat: Callable[[str], None] = lambda text: None) -> metrics.Evaluation | None:
        """Evaluates the model on every example of a split exactly once, in parts of about a second.

        Args:
          split: with at least one example.
          should_stop: called between the parts.
          beat: called with a text after each part.

        Returns:
          An Evaluation, or None if it was stopped.

        Raises:
          UsageError: the split is empty.
        """
        batches, done, pace = self._batches(split), 0, self._evaluation_pace
        iterator, rows = self.evaluation_iterator(split), []
        total = tf.zeros([self.steps.inference.num_sums], tf.float64)
        while done < batches:
            if should_stop():
                return None
            count, before = int(self.workers.first(pace.next(batches - done))), time.monotonic()
            total, part = self.steps.inference.evaluate_steps(iterator, tf.constant(count), total)
            sums = total.numpy()
            rows.append(part.numpy().reshape(-1, part.shape[-1]))
            pace.finished(count, time.monotonic() - before)
            done += count
            beat(f"batch {done} of the evaluation of {split.name}")
        return metrics.evaluation(sums, np.concatenate(rows)[:split.num_examples], self.source.num_classes,
                                  self.settings.metrics)

    def _whole_batches(self, split):
        """Opens one pass over a split in which this worker computes every row, without the others."""
        if self.workers.count == 1:
            return self.evaluation_iterator(split)
        layout = dataclasses.replace(self.evaluation_layout(), workers=1, worker=0)
        return self.steps.input_distributor.iterator(eval_batches(split, layout))

    def _batches(self, split):
        """Returns the number of evaluation batches of a split; raises UsageError for an empty one."""
        if not split.num_examples:
            raise UsageError(f"the {split.name} split of {self.source.name} has no examples to evaluate")
        return math.ceil(split.num_examples / self.steps.inference.evaluation_batch_size)

    def outputs(self, split: Split, limit: int | None = None, look: Callable[[int, np.ndarray], None] | None = None,
                should_stop: Callable[[], bool] = lambda: False,
                beat: Callable[[str], None] = lambda text: None) -> Outputs | None:
        """Computes the outputs of the model for the first `limit` examples of a split (default all).

        Args:
          split: with at least one example.
          limit: maximum number of examples.
          look: called with the index of the first example of each batch and the input of the last layer with weights,
            a float32 [n, F] NumPy array.
          should_stop: called before each batch; if true, None is returned.
          beat: called with a text after each batch.

        Raises:
          UsageError: the split is empty.
        """
        inference, count, logits = self.steps.inference, min(limit or split.num_examples, split.num_examples), []
        iterator, size = self._whole_batches(split), inference.evaluation_batch_size
        for batch in range(min(self._batches(split), math.ceil(count / size))):
            if should_stop():
                return None
            if look is None:
                part = inference.logits_of_batch(iterator)
            else:
                part, features = inference.outputs_of_batch(iterator)
                look(batch * size, features.numpy()[:count - batch * size])
            logits.append(part.numpy())
            beat(f"batch {batch + 1} of the outputs for {split.name}")
        labels = split.labels if split.labels is not None else split.reader.read_labels()
        return Outputs(np.concatenate(logits)[:count], labels[:count])


def build(config: ExperimentConfig, source: Source, strategy: tf.distribute.Strategy, stored: Mapping | None = None,
          begins: bool | None = None, tries_reduction: bool = True) -> Experiment:
    """Composes an experiment with a freshly initialized state; no run directory is read or written.

    Args:
      source: loaded with this configuration.
      strategy: tf.distribute.MirroredStrategy, created before any other TensorFlow operation.
      stored: config.json of an existing run, or None.
      begins: whether --initialize_from is read, as no checkpoint will be restored; default: without `stored`.
      tries_reduction: whether the reduction is tried first; not where the devices are not there.

    Raises:
      UsageError: model, data, options or the weights to start from do not fit each other.
    """
    height, width, channels = source.image_shape
    wanted = registry.wanted_channels(config.model.model, channels)
    shape, begins = (height, width, wanted), stored is None if begins is None else begins
    plan = cadence.plan(config, source.train.num_examples)
    settings = step_settings(config, source, wanted, strategy.num_replicas_in_sync, stored, plan.averaged)
    with strategy.scope():
        model = registry.create(config.model.model, source.num_classes, shape, config.model.model_options,
                                config.model.batch_norm_momentum)
        if source.preprocessing.image_shape != source.image_shape:
            check_size(model, config.model.model, (*source.preprocessing.image_shape[:2], wanted))
        for _, size in plan.image_sizes[:-1]:
            check_input_shape(model, config.model.model, (size, size, wanted))
            check_size(model, config.model.model, (size, size, wanted), "image_sizes")
        if settings.xla and strategy.num_replicas_in_sync > 1:
            check_compiled(model, config.model.model)
    plain, before = PlainModel.of(config.model, source.num_classes, shape), Initialization.stored(stored)
    # Outside of the scope: a model that a file is read into needs no copies on the replicas.
    initialization = initialize(model, config.training.initialize_from, plain, find, before) if begins else before
    with strategy.scope():
        trained = trained_weights(model, config, shape, plan.thaws)
        optimizer = create_optimizer(config.optimizer, model, trained)
        add_l2(model, trained.freezing.since, config.optimizer.l2)
        state = TrainState(model, optimizer, with_ema=keeps_average(config.optimizer), scale_loss=settings.scale_loss,
                           held=trained.freezing.frozen.held, unclipped=trained.head)
    if strategy.num_replicas_in_sync > 1 and tries_reduction:
        check_reduction(strategy, settings.compute_dtype)
        check_reduced_once(run_once, strategy)
    schedule = learning_rate_schedule(config.optimizer, plan.total_steps, plan.warmup_steps, plan.unfreeze_at,
                                      plan.rewarmup_steps, plan.drop_every)
    return Experiment(config, source, strategy, plan, settings, state,
                      StepFunctions(strategy, state, schedule, settings, image_size=plan.image_size(0)),
                      Workers(strategy), trained,
                      initialization, evaluates_average(stored) if stored else keeps_average(config.optimizer))


def start(config: ExperimentConfig, console: Console, cluster: Cluster | None = None, settings: str = "",
          stored: Mapping | None = None) -> tuple[tf.distribute.Strategy, Source]:
    """Sets up the process and loads the data.

    Args:
      console: for messages.
      cluster: of several workers that train together, or None.
      settings: text that has to be the same on every worker.
      stored: config.json of an existing run, or None.
    """
    with activity(f"{STARTING} and meeting the other workers" if cluster else STARTING, console):
        strategy = devices.start(config.runtime, config.training, config.optimizer, console, cluster=cluster,
                                 settings=settings)
    return strategy, load_data(config.data, config.training.batch_size, console, own_validation(stored),
                               of_begun(stored))


def compose(config: ExperimentConfig, source: Source, strategy: tf.distribute.Strategy, stored: Mapping | None = None,
            begins: bool | None = None, begun_with: Sequence[str] = ()) -> Experiment:
    """Composes an experiment as `build`, with the initial weights of the seed, and checks its batches.

    `begun_with`: augmentations with which the run was started, see Experiment.check_batches.
    """
    keras.utils.set_random_seed(config.training.seed)
    experiment = build(config, source, strategy, stored, begins)
    experiment.check_batches(begun_with)
    return experiment
