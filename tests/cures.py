"""What goes wrong without which function of the product, and what then notices: a test, or `mirrorline verify`.

A cure is taken out by replacing the named functions wherever they were imported: in this process for a while, or, for
a command, in every process that it starts.
"""
import contextlib
import dataclasses
import importlib
import os
import subprocess
import sys

import keras
import pytest
import tensorflow as tf

from pipeline.data import stream
from pipeline.data.stateless_random import uniform
from pipeline.distributed.reduction import reduce_once
from pipeline.internals.keras_internals import AlreadyReduced
from pipeline.models.dropout import uniform_rows
from pipeline.training.gradients import clip
from pipeline.training.inference import Inference
from pipeline.training.losses import training_losses
from pipeline.training.settings import step_settings
from pipeline.training.step import StepFunctions
from tests.commands import REPOSITORY, environment

FAILED = r"^(AssertionError|Failed): "
INFINITE = "tests.training.test_step:test_an_infinite_gradient_of_any_replica_skips_the_step_on_all"


@dataclasses.dataclass(frozen=True)
class Cure:
    """One row.

    Attributes:
      wrong: what goes wrong without it.
      without: {"module:function" or "module:Class.function": what replaces it}.
      test: "module:function" of the test that must fail; None where `part` alone shows it.
      arguments: its parameters, without fixtures.
      symptom: pattern of how it has to fail, see tests.training.cures.outcome.
      part: of the proof of `mirrorline verify` that must be violated; None where none needs to be.
      flags: more flags for that.
    """

    wrong: str
    without: dict
    test: str | None = None
    arguments: dict = dataclasses.field(default_factory=dict)
    symptom: str = FAILED
    part: str | None = None
    flags: tuple = ()


def last_replica_lost(grads, state, sums, num_replicas, *more):
    if num_replicas > 1:
        lost = tf.distribute.get_replica_context().replica_id_in_sync_group == num_replicas - 1
        grads = [tf.where(lost, tf.zeros_like(g), g) for g in grads]
    return reduce_once(grads, state, sums, num_replicas, *more)


def clip_each_replica(self, *arguments):
    grads, *rest = accumulate(self, *arguments)
    return clip(grads, tf.linalg.global_norm(grads), self.settings.clip_norm), *rest


def from_the_beginning(split, layout, seed, start_step, *more):
    return train_stream(split, layout, seed, 0, *more)


def loss_of_each_replica(*args):
    losses, *hits = training_losses(*args)
    return losses / tf.distribute.get_strategy().num_replicas_in_sync, *hits


def batches_of_each_epoch(self, seed, start_step, batch_size, finish, rows=None):
    images, labels = self.tensors
    starts = tf.data.Dataset.range(0, len(self.labels), batch_size).repeat().skip(start_step)
    return starts.map(lambda first: finish(images[first:first + batch_size], labels[first:first + batch_size],
                                           first // batch_size))


def means_of_replicas(self, batch):
    rows = tf.cast(tf.shape(self.input_distributor.rows(batch)["label"])[0], tf.float64)
    sums, examples = replica_evaluation(self, batch)
    return tf.stack([sums[0] / sums[2] * rows, sums[1] / sums[2] * rows, sums[2]]), examples


def first_micro_batch(self, compute, *arguments):
    computed = []

    def only_once(*values):
        computed.append(compute(*values))
        return computed[0] if len(computed) == 1 else tf.nest.map_structure(tf.zeros_like, computed[-1])

    return accumulate(self, only_once, *arguments)


def count_applied_steps(self, finite):
    finish(self, finite)
    self.state.global_step.assign_sub(tf.cast(~finite, tf.int64))


def checkpoint_of_keras(self):
    return tf.train.Checkpoint(model=self.model, optimizer=self.optimizer, ema=self.ema, **self.counters())


def checkpoint_without_optimizer(self):
    return tf.train.Checkpoint(model=[v.value for v in self.model.variables], ema=self.ema, **self.counters())


def read_what_matches(self, stored):
    self._checkpoint.read(stored.path).assert_existing_objects_matched()


def moved_by_drawing(seed, draw_index, layer_index, first_row, rows, width):
    return tf.random.uniform([rows, width])


def same_rows_on_every_replica(seed, draw_index, layer_index, first_row, rows, width):
    return uniform_rows(seed, draw_index, layer_index, tf.zeros_like(first_row), rows, width)


def moments_of_each_replica(x, num_replicas=1):
    return (*tf.nn.moments(x, list(range(x.shape.rank - 1))), tf.cast(tf.size(x) // x.shape[-1], tf.float64))


def moments_in_single_precision(x, num_replicas=1):
    count, replica = tf.cast(tf.size(x) // x.shape[-1], x.dtype), tf.distribute.get_replica_context()

    def over_replicas(value):
        return replica.all_reduce(tf.distribute.ReduceOp.SUM, value) if num_replicas > 1 else value
    axes, count = list(range(x.shape.rank - 1)), over_replicas(count)
    mean = over_replicas(tf.reduce_sum(x, axes)) / count
    return mean, over_replicas(tf.reduce_sum(tf.math.squared_difference(x, mean), axes)) / count, count


def biased_block(self, x, training=False):
    return self.relu(self.norm(self.convolution(x), training=training))


def sample_variance(x, gamma, beta, epsilon):
    return tf.compat.v1.nn.fused_batch_norm(x, gamma, beta, epsilon=epsilon, is_training=True)


def one_draw_a_batch(seeds, draw):
    return tf.repeat(uniform(seeds[:1], draw), tf.shape(seeds)[0], axis=0)


def penalties_of_each_replica(self, losses, weight):
    return tf.add_n([tf.cast(loss, self.settings.compute_dtype) for loss in losses])


def nested_core(self, *args, **kwargs):
    create_steps(self, *args, **kwargs)
    self._compute = tf.function(self._pure)


def compiled_settings(config, *args, **kwargs):
    return dataclasses.replace(step_settings(config.replace(xla="auto"), *args, **kwargs), xla=True)


def reduce_again(self, grads_and_vars):
    return super(AlreadyReduced, self)._all_reduce_sum_gradients(grads_and_vars)


finish, create_steps, accumulate = (getattr(StepFunctions, name) for name in ("_finish", "__init__", "_accumulate"))
replica_evaluation = Inference._replica_evaluation
train_stream = stream.train_stream

STEP, TESTS = "pipeline.training.step:StepFunctions", "tests.training.test_step"
NORMALIZED = "pipeline.models.normalization"
DROPOUT, NORMALIZATION = "pipeline.models.dropout", "tests.models.test_normalization"
CURES = [
    Cure("every gradient counts as finite",
         {"pipeline.training.gradients:is_finite": lambda norm, loss: tf.constant(True)},
         INFINITE, dict(poison=float("inf"), replica=1), part="infinite"),
    Cure("a gradient that is no number is applied",
         {"pipeline.training.gradients:is_finite": lambda norm, loss: ~tf.math.is_inf(norm)},
         INFINITE, dict(poison=float("nan"), replica=0)),
    Cure("gradients are clipped on each replica",
         {f"{STEP}._accumulate": clip_each_replica,
          "pipeline.training.gradients:clip": lambda grads, norm, limit: grads},
         f"{TESTS}:test_clipping_acts_on_the_reduced_gradient", part="replicas", flags=("--clip_norm=0.1",)),
    Cure("the last batch of an epoch is short, and replicas get unequal parts of it",
         {"pipeline.data.memory:InMemory.shuffled": batches_of_each_epoch},
         f"{TESTS}:test_a_training_batch_is_never_short",
         symptom=r"^InvalidArgumentError: .*\[37[\d,]*\] is not compatible with expected shape \[100[\d,]*\]"),
    Cure("padding counts in an evaluation",
         {"pipeline.training.losses:masked": lambda values, weight: values},
         f"{TESTS}:test_every_example_counts_once_in_an_evaluation", dict(replicas=2),
         part="ragged"),
    Cure("padding that is no number reaches the sum",
         {"pipeline.training.losses:masked": lambda values, weight: values * weight},
         "tests.training.test_losses:test_padding_does_not_count_even_if_it_is_nan"),
    Cure("an evaluation is a mean of the means of its batches",
         {"pipeline.training.inference:Inference._replica_evaluation": means_of_replicas},
         f"{TESTS}:test_every_example_counts_once_in_an_evaluation", dict(replicas=2)),
    Cure("losses are divided by the replicas a second time",
         {"pipeline.training.losses:training_losses": loss_of_each_replica},
         "tests.training.test_own_models:test_penalties_of_layers_are_in_the_loss_once",
         dict(replicas=2, micro_batches=1)),
    Cure("a model that was built but never called has no variables",
         {"pipeline.models.registry:build": lambda model, shape: keras.Model.build(model, (None, *shape)),
          "pipeline.models.classifier:Classifier.build": keras.Model.build},
         "tests.models.test_models:test_parameter_counts", dict(name="cnn")),
    Cure("a checkpoint is restored into a model without variables, and nobody says so",
         {"pipeline.training.checkpoint:CheckpointStore.read": read_what_matches},
         "tests.training.test_own_models:test_a_checkpoint_is_not_restored_into_a_model_without_variables"),
    Cure("micro-batches after the first one are lost", {f"{STEP}._accumulate": first_micro_batch},
         f"{TESTS}:test_accumulation_equals_one_large_batch", dict(count=4, augment=("crop", "mixup"))),
    Cure("every replica has moving statistics of its own, and a checkpoint those of one",
         {"pipeline.distributed.reduction:is_averaged": lambda tensor: False},
         f"{TESTS}:test_statistics_are_equal_on_every_replica_without_synchronization"),
    Cure("the state's integers ride in the float reduction, and are rounded",
         {"pipeline.distributed.reduction:is_averaged": lambda tensor: True},
         "tests.training.test_reduction:test_gradients_are_added_statistics_averaged_and_counters_left_alone",
         dict(replicas=2)),
    Cure("skipped steps do not count as steps, and the run loses its place", {f"{STEP}._finish": count_applied_steps},
         INFINITE, dict(poison=float("inf"), replica=0)),
    Cure("weights in nested lists are not in the checkpoint",
         {"pipeline.training.state:TrainState.checkpoint": checkpoint_of_keras},
         "tests.training.test_own_models:test_layers_in_lists_of_lists_are_restored"),
    Cure("dropout draws from a state that moves with every call", {f"{DROPOUT}:uniform_rows": moved_by_drawing},
         "tests.models.test_dropout:test_masks_differ_between_layers_steps_and_seeds_and_repeat_otherwise"),
    Cure("every replica draws the same dropout", {f"{DROPOUT}:uniform_rows": same_rows_on_every_replica},
         "tests.training.test_own_models:"
         "test_micro_batches_with_dropout_and_mixing_agree_on_any_number_of_replicas", part="replicas"),
    Cure("the initial variance of 1 stays in the moving average, and short runs evaluate with it",
         {"pipeline.models.normalization:update_rate": lambda momentum, updates: 1 - momentum},
         f"{NORMALIZATION}:test_moving_averages_are_corrected_for_their_initial_value", dict(policy="float64")),
    Cure("a bias before a normalization gets rounding noise for a gradient, which Adam follows",
         {"pipeline.models.blocks:ConvBlock.call": biased_block},
         f"{NORMALIZATION}:test_a_bias_left_out_moves_the_mean_and_gets_no_gradient"),
    Cure("the fused kernel's sample variance is kept in place of the population's",
         {"pipeline.models.normalization:fused_normalization": sample_variance},
         f"{NORMALIZATION}:test_two_values_keep_the_population_variance"),
    Cure("losses that layers add are lost", {f"{STEP}._layer_losses": lambda self, losses, weight: 0.0},
         f"{TESTS}:test_one_step_is_that_of_keras_fit", dict(name="cnn", optimizer="sgd")),
    Cure("every replica and micro-batch adds the whole penalty", {f"{STEP}._layer_losses": penalties_of_each_replica},
         "tests.training.test_own_models:test_penalties_of_layers_are_in_the_loss_once",
         dict(replicas=2, micro_batches=1)),
    Cure("every image of a batch is cropped alike", {"pipeline.data.stateless_random:uniform": one_draw_a_batch},
         "tests.data.test_augment:test_a_row_depends_on_its_own_image_and_position_alone",
         dict(name="crop", channels=1)),
    Cure("a collective stands in a nested function", {f"{STEP}.__init__": nested_core},
         "tests.training.test_parity:test_statistics_over_replicas_are_computed_in_the_step",
         symptom="^RuntimeError: .*merge_call"),
    Cure("a collective stands in compiled code", {"pipeline.training.settings:step_settings": compiled_settings},
         f"{TESTS}:test_a_compiled_core_with_statistics_over_replicas_is_refused"),
    Cure("Keras's optimizer adds up gradients that are sums already, and the start notices",
         {"pipeline.internals.keras_internals:AlreadyReduced._all_reduce_sum_gradients": reduce_again},
         f"{TESTS}:test_replicas_agree_with_everything_on", dict(several=2),
         symptom="^RunFailure: .*reduces gradients twice"),
    Cure("Keras's optimizer adds up gradients that are sums already",
         {"pipeline.internals.keras_internals:AlreadyReduced._all_reduce_sum_gradients": reduce_again,
          "pipeline.training.optimizer:check_reduced_once": lambda run, strategy: None},
         f"{TESTS}:test_clipping_acts_on_the_reduced_gradient"),
    Cure("the reduction loses a replica", {"pipeline.distributed.reduction:reduce_once": last_replica_lost},
         part="reduction"),
    Cure("a resume starts the stream from the beginning",
         {"pipeline.data.stream:train_stream": from_the_beginning}, part="resume"),
    Cure("batch statistics are each replica's own",
         {f"{NORMALIZED}:batch_moments": moments_of_each_replica}, part="replicas"),
    Cure("another number of replicas rounds batch statistics otherwise",
         {"pipeline.models.moments:batch_moments": moments_in_single_precision},
         "tests.models.test_moments:test_any_number_of_replicas_has_the_same_bits",
         dict(shape=(4, 28, 28, 32), offset=0.3)),
    Cure("a checkpoint leaves the optimizer out",
         {"pipeline.training.state:TrainState.checkpoint": checkpoint_without_optimizer}, part="resume"),
]
TESTED = [cure for cure in CURES if cure.test]
PROVED = {cure.wrong: cure for cure in CURES if cure.part}


def take_out(without):
    """Replaces functions: those of a class there, those of a module in every module that imported them.

    Returns:
      pytest.MonkeyPatch that undoes it.
    """
    patch = pytest.MonkeyPatch()
    for target, replacement in without.items():
        module, _, name = target.partition(":")
        *owner, attribute = name.split(".")
        if owner:
            patch.setattr(getattr(importlib.import_module(module), owner[0]), attribute, replacement)
            continue
        original = getattr(importlib.import_module(module), attribute)
        for other in [m for n, m in sys.modules.items() if n.split(".")[0] in ("pipeline", "tests") and n != __name__]:
            if getattr(other, attribute, None) is original:
                patch.setattr(other, attribute, replacement)
    return patch


@contextlib.contextmanager
def taken_out(without):
    """Takes a cure out for a while."""
    patch = take_out(without)
    try:
        yield
    finally:
        patch.undo()


def verify_without(names, folder, *arguments, timeout=1800):
    """Runs `mirrorline verify` with cures of PROVED taken out of every process it starts (tests/without_cures).

    Args:
      names: keys of PROVED.
      folder: pathlib.Path, where it runs.
      arguments: more flags than those of the cures, and the parts that show them.

    Returns:
      The completed process with text output.
    """
    cures = [PROVED[name] for name in names]
    flags = [f"--only={','.join(cure.part for cure in cures)}", *(flag for cure in cures for flag in cure.flags)]
    search = os.pathsep.join([str(REPOSITORY / "tests" / "without_cures"), str(REPOSITORY)])
    return subprocess.run([sys.executable, "-m", "launch", "verify", *flags, *arguments], cwd=folder, text=True,
                          capture_output=True, timeout=timeout, stdin=subprocess.DEVNULL,
                          env={**environment(), "PYTHONPATH": search, "WITHOUT_CURES": os.pathsep.join(names)})
