"""The streams of batches of an experiment, for training from a step on and for evaluation."""
import dataclasses
import weakref
from collections.abc import Iterator

import tensorflow as tf

from pipeline.augmentation import augmentations
from pipeline.config import ExperimentConfig
from pipeline.data import resident
from pipeline.data.source import Source, Split
from pipeline.data.stream import BatchLayout, eval_batches, train_stream
from pipeline.distributed.input_distribution import uses_gpus
from pipeline.training.cadence import Plan
from pipeline.training.settings import StepSettings, augment_batch
from pipeline.training.state import TrainState
from pipeline.training.step import StepFunctions


@dataclasses.dataclass
class Streams:
    """What an experiment trains on and is evaluated on, in batches.

    Attributes:
      config, source, strategy, plan, settings, state, steps: see experiment.Experiment.
    """

    config: ExperimentConfig
    source: Source
    strategy: tf.distribute.Strategy
    plan: Plan
    settings: StepSettings
    state: TrainState
    steps: StepFunctions
    # By split, as long as it is referenced: splits on the devices with their iterators, and data sets.
    _splits: weakref.WeakKeyDictionary = dataclasses.field(
        default_factory=weakref.WeakKeyDictionary, init=False)
    _evaluations: weakref.WeakKeyDictionary = dataclasses.field(
        default_factory=weakref.WeakKeyDictionary, init=False)
    # (step, tf.data.Dataset) of the training stream.
    _opened: tuple[int, tf.data.Dataset] | None = dataclasses.field(default=None, init=False)

    @property
    def layout(self) -> BatchLayout:
        """Layout of training batches."""
        input_distributor = self.steps.input_distributor
        return BatchLayout(self.config.training.batch_size, self.strategy.num_replicas_in_sync,
                           self.config.optimizer.accumulate_steps, input_distributor.workers, input_distributor.rank)

    def train_dataset(self, step: int) -> tf.data.Dataset:
        """Opens the stream of examples at a step: a data set of global batches.

        The last one is kept: creating it takes longer than a batch of it.
        """
        if self._opened is None or self._opened[0] != step:
            self._opened = step, train_stream(self.source.train, self.layout, self.config.training.seed, step,
                                              augmentations(self.config.data), self.augments_in_step,
                                              self.plan.image_size(step))
        return self._opened[1]

    def train_batch(self, step: int) -> dict[str, tf.Tensor]:
        """Returns the batch of the step after `step` steps as the model sees it: augmented, not normalized."""
        batch = dict(next(iter(self.train_dataset(step))))
        positions = batch.pop("position", None)
        return batch if positions is None else augment_batch(
            batch, positions, self.settings, self.plan.image_size(step))

    @property
    def augments_in_step(self) -> bool:
        """Whether images of a stream are augmented inside the step, on the devices of the replicas."""
        place = self.config.data.augment_on
        return place == "device" or (place == "auto" and uses_gpus(self.strategy))

    def train_iterator(self, step: int) -> Iterator:
        """Opens the stream of examples at a step and returns an iterator of global batches."""
        if not self.resident:
            return self.steps.input_distributor.iterator(self.train_dataset(step))
        arguments = (self.layout, self.config.training.seed, augmentations(self.config.data),
                     self.plan.image_size(step))
        return self._resident_iterator(resident.TrainIterator, self.source.train, *arguments).open(step)

    def evaluation_iterator(self, split: Split) -> Iterator:
        """Opens one pass over a split and returns an iterator of its global batches."""
        if not self.resident:
            if split not in self._evaluations:  # Creating a data set takes longer than evaluating a small one.
                self._evaluations[split] = eval_batches(split, self.evaluation_layout())
            return self.steps.input_distributor.iterator(self._evaluations[split])
        return self._resident_iterator(resident.EvaluationIterator, split, self.evaluation_layout()).open(0)

    @property
    def resident(self) -> bool:
        """Whether the data is on the devices and the steps make their batches themselves."""
        return self.config.data.cache == "device"

    def _resident_iterator(self, kind, split, *arguments):
        """Returns the cached iterator of a kind over a split on the devices."""
        with self.strategy.scope():
            if split not in self._splits:
                self._splits[split] = resident.ResidentSplit(split, copy=self.steps.input_distributor.distributes), {}
        data, iterators = self._splits[split]
        key = kind, arguments[3:]  # Of training there is one for each size of images.
        if key not in iterators:
            iterators[key] = kind(data, *arguments)
        return iterators[key]

    def evaluation_layout(self) -> BatchLayout:
        """Layout of evaluation batches: the training batch size, rounded up to a multiple of the replicas."""
        input_distributor = self.steps.input_distributor
        return BatchLayout(self.steps.inference.evaluation_batch_size, self.strategy.num_replicas_in_sync, 1,
                           input_distributor.workers, input_distributor.rank)
