"""The one place where the parts of an experiment are put together."""
import contextlib
import dataclasses
import math
import time
import weakref

import keras
import numpy as np
import tensorflow as tf

from pipeline.activity import STARTING, activity
from pipeline.config import ExperimentConfig
from pipeline.data import resident
from pipeline.data.load import load as load_data
from pipeline.data.source import Source
from pipeline.data.splits import own_validation
from pipeline.data.stream import BatchLayout, check_layout, eval_batches, train_stream
from pipeline.distributed import devices
from pipeline.distributed.agreement import Workers
from pipeline.errors import UsageError
from pipeline.export.weight_sources import find
from pipeline.metrics import evaluation as metrics
from pipeline.models import registry
from pipeline.models.freezing import Frozen, freeze
from pipeline.models.initialization import Initialization, initialize
from pipeline.models.model_checks import check_compiled
from pipeline.monitoring import operations
from pipeline.options import augmentations, check_strengths
from pipeline.run_directory import evaluates_average
from pipeline.training import cadence
from pipeline.training.inference import Outputs
from pipeline.training.optimizer import check_reduced_once, create_optimizer
from pipeline.training.schedule import learning_rate_schedule
from pipeline.training.self_test import check_reduction
from pipeline.training.settings import StepSettings, step_settings
from pipeline.training.state import TrainState
from pipeline.training.step import StepFunctions, run_once


@dataclasses.dataclass
class Experiment:
    """Configuration, data, model, state and step of one run.

    Attributes:
      config: ExperimentConfig.
      source: Source of the data.
      strategy: tf.distribute.MirroredStrategy.
      plan: cadence.Plan.
      settings: StepSettings.
      state: TrainState.
      steps: StepFunctions.
      workers: Workers, the processes of the run.
      frozen: Frozen.
      initialization: Initialization of a run that began with the weights of a file, else None.
      evaluates_average: whether the evaluations of a training are of the moving average of the weights.
      step_operations: floating-point operations of a training step, None before they were counted.
    """

    config: ExperimentConfig
    source: Source
    strategy: tf.distribute.Strategy
    plan: cadence.Plan
    settings: StepSettings
    state: TrainState
    steps: StepFunctions
    workers: Workers
    frozen: Frozen
    initialization: Initialization | None
    evaluates_average: bool = False
    step_operations: int | None = None
    # By split, as long as somebody has it: those that lie on the devices with their iterators, and data sets.
    _splits: weakref.WeakKeyDictionary = dataclasses.field(default_factory=weakref.WeakKeyDictionary)
    _evaluations: weakref.WeakKeyDictionary = dataclasses.field(default_factory=weakref.WeakKeyDictionary)
    _opened: tuple | None = None  # (step, tf.data.Dataset) of the training stream.
    _evaluation_pace: cadence.StepsPerLoopController = dataclasses.field(default_factory=cadence.StepsPerLoopController)

    @property
    def watched(self):
        """The split that evaluations along the way look at, see Source.watched."""
        return self.source.watched

    def evaluated_weights(self):
        """Returns a context in which the model has the weights that the evaluations of a training are of."""
        return self.state.moving_average() if self.evaluates_average else contextlib.nullcontext()

    @property
    def layout(self):
        """BatchLayout of training."""
        input_distributor = self.steps.input_distributor
        return BatchLayout(self.config.training.batch_size, self.strategy.num_replicas_in_sync,
                           self.config.optimizer.accumulate_steps, input_distributor.workers, input_distributor.rank)

    def evaluation_due(self, step: int) -> bool:
        """Tells whether a step wants an evaluation that it has not had."""
        plan = self.plan
        due = step > 0 and (step >= plan.total_steps or plan.is_boundary(plan.evaluate_every, step))
        return due and int(self.state.evaluated_step.numpy()) != step

    def learning_rate(self, step: int) -> float:
        """Returns the learning rate that the step after `step` steps will have."""
        factor = float(self.state.learning_rate_factor.numpy())
        return float(self.steps.schedule(tf.constant(step, tf.int64))) * factor

    def count_operations(self, iterator) -> None:
        """Counts the operations of a training step, from the graph that ran with this iterator: nothing is traced."""
        graph = self.steps.train_steps.get_concrete_function(iterator, tf.constant(1)).graph
        self.step_operations = operations.count(graph)

    def check_batches(self, begun_with=()):
        """Raises UsageError where training batches cannot be made: before anything is written for a run.

        Args:
          begun_with: augmentations of the run that goes on, see check_strengths.
        """
        check_layout(self.source.train, self.layout, augmentations(self.config.data))
        check_strengths(self.config.data.augment, self.source.image_shape, begun_with)

    def train_dataset(self, step):
        """Opens the stream of examples at a step: a tf.data.Dataset of global batches.

        Whoever asks for the same step next gets the same one: making it takes longer than a batch of it.
        """
        if self._opened is None or self._opened[0] != step:
            self._opened = step, train_stream(self.source.train, self.layout, self.config.training.seed, step,
                                              augmentations(self.config.data))
        return self._opened[1]

    def train_iterator(self, step):
        """Opens the stream of examples at a step and returns the iterator of global batches."""
        if not self.resident:
            return self.steps.input_distributor.iterator(self.train_dataset(step))
        arguments = (self.layout, self.config.training.seed, augmentations(self.config.data))
        return self._resident_iterator(resident.TrainIterator, self.source.train, *arguments).open(step)

    def evaluation_iterator(self, split):
        """Opens one pass over a split and returns the iterator of its global batches."""
        if not self.resident:
            if split not in self._evaluations:  # Making a data set takes longer than evaluating a small one.
                self._evaluations[split] = eval_batches(split, self.evaluation_layout())
            return self.steps.input_distributor.iterator(self._evaluations[split])
        return self._resident_iterator(resident.EvaluationIterator, split, self.evaluation_layout()).open(0)

    @property
    def resident(self):
        """Whether the data lies on the devices and the steps make their batches themselves."""
        return self.config.data.cache == "device"

    def _resident_iterator(self, kind, split, *arguments):
        """Returns the one iterator of a kind over a split on the devices."""
        with self.strategy.scope():
            if split not in self._splits:
                self._splits[split] = resident.ResidentSplit(split, copy=self.steps.input_distributor.distributes), {}
            data, iterators = self._splits[split]
            if kind not in iterators:
                iterators[kind] = kind(data, *arguments)
        return iterators[kind]

    def evaluation_layout(self):
        """BatchLayout of evaluation: the training batch, made divisible by the replicas."""
        input_distributor = self.steps.input_distributor
        return BatchLayout(self.steps.inference.evaluation_batch_size, self.strategy.num_replicas_in_sync, 1,
                           input_distributor.workers, input_distributor.rank)

    def evaluate(self, split, should_stop=lambda: False, beat=lambda text: None):
        """Evaluates the model on every example of a split exactly once, in parts of about a second.

        Args:
          split: a Split with at least one example.
          should_stop: predicate, looked at between the parts.
          beat: called with a text after each part.

        Returns:
          An Evaluation, or None where it was stopped.

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
        """Opens one pass over a split in which this worker computes every row: the others take no part."""
        if self.workers.count == 1:
            return self.evaluation_iterator(split)
        layout = dataclasses.replace(self.evaluation_layout(), workers=1, worker=0)
        return self.steps.input_distributor.iterator(eval_batches(split, layout))

    def _batches(self, split):
        """Returns the number of evaluation batches of a split; raises UsageError for an empty one."""
        if not split.num_examples:
            raise UsageError(f"the {split.name} split of {self.source.name} has no examples to evaluate")
        return math.ceil(split.num_examples / self.steps.inference.evaluation_batch_size)

    def outputs(self, split, limit=None, look=None, should_stop=lambda: False, beat=lambda text: None):
        """Returns what the model says of the first `limit` examples of a split (default all), see Outputs.

        Args:
          split: a Split with at least one example.
          limit: most examples.
          look: called with the number of the first example of each batch and what the last layer with weights is given
            of its examples, float32 [n, F] NumPy array, which is then let go; None where nobody looks.
          should_stop: predicate, looked at before each batch; then None is returned.
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
            beat(f"batch {batch + 1} of what the model says of {split.name}")
        labels = split.labels if split.labels is not None else split.reader.read_labels()
        return Outputs(np.concatenate(logits)[:count], labels[:count])


def build(config, source, strategy, stored=None, begins=None):
    """Puts an experiment together: nothing is read from or written to a run's directory.

    Args:
      config: ExperimentConfig.
      source: Source, loaded with this configuration.
      strategy: tf.distribute.MirroredStrategy, made before any other TensorFlow operation.
      stored: what config.json of an existing run holds, or None.
      begins: whether no checkpoint will be read into its state, so that --initialize_from is; default: where nothing is
        stored. A run that goes on does not need the file any more.

    Returns:
      An Experiment with a freshly initialized state.

    Raises:
      UsageError: model and data, or options, do not fit each other, or the file to start from does not fit.
    """
    height, width, channels = source.image_shape
    wanted = registry.wanted_channels(config.model.model, channels)
    shape, begins = (height, width, wanted), stored is None if begins is None else begins
    plan = cadence.plan(config, source.train.num_examples)
    settings = step_settings(config, source, wanted, strategy.num_replicas_in_sync, stored)
    with strategy.scope():
        model = registry.create(config.model.model, source.num_classes, shape, config.model.model_options,
                                config.model.batch_norm_momentum)
        if settings.xla and strategy.num_replicas_in_sync > 1:
            check_compiled(model, config.model.model)
        initialization = Initialization.stored(stored)
        if begins:
            initialization = initialize(model, config.training.initialize_from, shape, find, initialization)
        frozen = freeze(model, config.model.freeze, shape)
        add_l2(model, config.optimizer.l2)
        state = TrainState(model, create_optimizer(config.optimizer, model), with_ema=config.optimizer.ema_decay > 0,
                           scale_loss=settings.scale_loss, held=frozen.held)
    if strategy.num_replicas_in_sync > 1:
        check_reduction(strategy, settings.compute_dtype)
        check_reduced_once(run_once, strategy)
    schedule = learning_rate_schedule(config.optimizer, plan.total_steps, plan.warmup_steps)
    return Experiment(config, source, strategy, plan, settings, state,
                      StepFunctions(strategy, state, schedule, settings), Workers(strategy), frozen,
                      initialization, evaluates_average(stored) if stored else config.optimizer.ema_decay > 0)


def start(config, console, cluster=None, settings="", stored=None):
    """Sets the process up and loads the data; returns (strategy, Source).

    Args:
      config: ExperimentConfig.
      console: where messages go.
      cluster: pipeline.distributed.cluster.Cluster where several workers train together, or None.
      settings: text that has to be the same on every worker.
      stored: what config.json of a run that goes on holds, or None.
    """
    with activity(f"{STARTING} and meeting the other workers" if cluster else STARTING, console):
        strategy = devices.start(config.runtime, config.training, config.optimizer, console, cluster=cluster,
                                 settings=settings)
    return strategy, load_data(config.data, config.training.batch_size, config.training.seed, console,
                               own_validation(stored))


def compose(config, source, strategy, stored=None, begins=None, begun_with=()):
    """Builds an experiment as `build`; its first weights are those of the seed, whatever was drawn before.

    `begun_with`: augmentations of the run that goes on, see Experiment.check_batches.
    """
    keras.utils.set_random_seed(config.training.seed)
    experiment = build(config, source, strategy, stored, begins)
    experiment.check_batches(begun_with)
    return experiment


def add_l2(model, strength):
    """Puts an L2 penalty, strength * sum(w^2), on every kernel (variable of two or more axes) without one."""
    if strength:
        for variable in model.trainable_variables:
            if len(variable.shape) > 1 and variable.regularizer is None:
                variable.regularizer = keras.regularizers.L2(strength)
