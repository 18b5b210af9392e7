"""What the step copies between a GPU and its host: from the registry of kernels, where there is no GPU."""
import itertools
import random

import numpy as np
import pytest
import tensorflow as tf

from pipeline.choices import AUGMENTATIONS, OPTIMIZERS
from pipeline.config import PRECISIONS, ExperimentConfig
from pipeline.console import Console
from pipeline.errors import UsageError
from pipeline.training.losses import cross_entropy
from pipeline.verification import gpu_kernels, gpu_step
from pipeline.verification.placement import Crossing, placement
from tests.commands import answers
from tests.selection import half_precision

# What the host decides and measures: whether the step is applied, whether weights are measured, when the batch came.
DECISIONS, CLOCK = {("If", "bool", True)}, {("Timestamp", "float64", False)}
ORDER = {("RandomIndexShuffle", "int64", False), ("AddV2", "int64", False)}  # Of the examples, made on the host.
TABLES = {("Mul", "int64", False)}  # Where the tables of the images begin, counted on the host.


def traced(**options):
    """Returns the step and the evaluation of a configuration on random images, traced for GPUs."""
    config = {"dataset": "synthetic:32x32x3", "batch_size": 8, "verbosity": "quiet", **options}
    return gpu_step.trace(ExperimentConfig.from_flat(config), Console(quiet=True))


def copies(found):
    """Returns {(operation, dtype, to the host)} of what a function copies beside its batches."""
    return {(one.operation, one.dtype, one.to_host) for one in found.placement.crossings}


@half_precision
def test_a_step_has_one_transfer_in_and_one_out_a_window():
    step, evaluation = traced(model="three_apis", precision="mixed_bfloat16", xla="on", augment=("crop", "flip"))
    batch = [("uint8", (8, 32, 32, 3)), ("int32", (8,)), ("float32", (8,))]
    assert step.placement.fed == [*batch[:2], ("int64", (8,)), batch[2]] and evaluation.placement.fed == batch
    assert step.fetched == (("float64", (None, 10)),)
    assert evaluation.fetched == (("float64", (3,)), ("float32", (None, 8, 5)))
    assert copies(step) == DECISIONS | CLOCK and copies(evaluation) == set()
    assert step.problems == evaluation.problems == 0
    lines = [f"{one.state} {one.name}: {one.text}" for one in gpu_step.findings([step, evaluation], True)]
    assert lines[0] == ("ok step in: uint8 8x32x32x3, int32 8, int64 8, float32 8: 24.1 KiB, sent ahead while the GPU "
                        "computes")
    assert "ok step out: float64 10 a step: fetched once a window" in lines


def test_data_on_two_gpus_stay_there():
    step, evaluation = traced(model="cnn", cache="device", augment=("trivialaugment", "cutmix"), replicas=2,
                              dataset="synthetic:9x9x3", precision="float32")
    assert step.placement.fed == evaluation.placement.fed == []
    assert copies(step) == DECISIONS | TABLES | ORDER
    assert copies(evaluation) == {("AddV2", "int64", False)}
    assert step.problems == evaluation.problems == 0


def of(function, *specs):
    """Returns what a function of tensors copies."""
    return placement(tf.function(function, autograph=False).get_concrete_function(*specs), True)


def test_the_loss_in_float64_has_a_kernel():
    def loss(logits, label):
        with tf.device("GPU:0"):
            return cross_entropy(logits, label)
    logits, label = tf.random.stateless_normal([4, 3], (1, 2), dtype=tf.float64), tf.constant([0, 2, 1, 1], tf.int64)
    assert of(loss, logits, label).crossings == []
    found = tf.function(loss, autograph=False)(logits, label)  # Without a GPU it is computed on the CPU.
    np.testing.assert_allclose(found, cross_entropy(logits, label), rtol=1e-13)


def test_what_has_no_kernel_and_what_wants_host_memory_is_found():
    images, labels = tf.TensorSpec([50, 8, 8, 3], tf.uint8), tf.TensorSpec([4], tf.int64)
    gathered = of(lambda images, index: tf.gather(images, index), images, labels)
    assert gathered.crossings[0] == Crossing("GatherV2", "GatherV2", "uint8", (50, 8, 8, 3), True, False)
    assert gathered.crossings[0].is_data and gathered.crossings[0].bytes == 9600
    narrow = of(lambda labels: tf.cast(tf.cast(labels, tf.int32) == 3, tf.float32), labels).crossings
    assert [(one.operation, one.dtype, one.bytes, one.to_host, one.has_kernel, one.is_data) for one in narrow] == [
        ("Equal", "int32", 16, True, True, True), ("Equal", "bool", 4, False, True, False)]
    decided = of(lambda labels: tf.cond(tf.reduce_any(labels > 3), lambda: labels + 1, lambda: labels), labels)
    assert [(one.operation, one.bytes, one.is_data) for one in decided.crossings] == [("StatelessIf", 1, False)]


def test_what_xla_does_not_compile_for_gpus_is_named():
    compiled = tf.function(lambda x: tf.math.bessel_i0(x) * 2, jit_compile=True, autograph=False)
    found = of(compiled, tf.TensorSpec([4], tf.float32))
    assert [operation for operation, _ in found.uncompiled] == ["BesselI0"]


def test_a_tensorflow_without_the_registry_says_so(monkeypatch):
    monkeypatch.setattr(gpu_kernels, "_kernels", lambda operation, devices: [])
    with pytest.raises(UsageError, match="built for CPUs alone and does not know the kernels of GPUs"):
        traced()


LOSS = """
import tensorflow as tf
from pipeline import register

@register.loss("narrow")
def narrow(logits, label):
    wrong = tf.argmax(logits, axis=-1, output_type=tf.int32) != label
    return tf.reduce_sum(logits, axis=-1) * tf.cast(wrong, logits.dtype)
"""


def test_the_command_names_what_is_copied(tmp_path):
    (tmp_path / "own.py").write_text(LOSS)
    common = ("doctor", "--dataset=synthetic:8x8x1", "--batch_size=8", "--model=mlp")
    good, bad, stray = answers([(*common, "--placement"),
                                (*common, "--placement", "--extension=own.py", "--loss=narrow"), common], tmp_path)
    assert good[0] == 0
    assert good[1].splitlines()[-1] == "On GPUs nothing but numbers would be copied beside the batches."
    named = "problem step data NotEqual NotEqual its GPU kernel wants them in host memory: int32 8, 32 bytes to"
    assert bad[0] == 1 and named in " ".join(bad[1].split())
    assert stray[0] == 2 and "--model belongs to what a GPU would copy: give --placement too" in stray[2]


MODELS = ("mlp", "cnn", "resnet_like", "inception", "mini_inception", "three_apis", "speed_cifar", "vit_ti16",
          "resnet18_cifar", "resnet50", "efficientnet_v2_b0", "mobilenet_v3_small", "convnext_tiny", "densenet121")
FACTORS = {"model": MODELS, "precision": PRECISIONS, "cache": ("host", "device"), "xla": ("auto", "on"),
           "augment": ((), ("crop", "flip", "color", "cutout"), ("resized_crop", "blur", "erasing", "mixup"),
                       ("rotate", "grayscale", "randaugment", "mixup", "cutmix"), ("trivialaugment", "cutmix")),
           "optimizer": tuple(OPTIMIZERS)}


def pairwise(factors):
    """Returns rows in which every two values of two factors meet; an optimizer knows nothing of models."""
    def pairs(row):
        return set(itertools.combinations(row.items(), 2))

    draw, rows = random.Random(0), []
    unmet = {((a, x), (b, y)): None for a, b in itertools.combinations(factors, 2) if (a, b) != ("model", "optimizer")
             for x in factors[a] for y in factors[b]}
    while unmet:
        first = dict(next(iter(unmet)))
        some = [{name: first.get(name, draw.choice(values)) for name, values in factors.items()} for _ in range(40)]
        rows.append(max(some, key=lambda row: len(pairs(row) & unmet.keys())))
        unmet = {pair: None for pair in unmet if pair not in pairs(rows[-1])}
    return rows


def test_every_augmentation_is_in_the_matrix():
    assert set(itertools.chain(*FACTORS["augment"])) == set(AUGMENTATIONS)


@pytest.mark.acceptance
@pytest.mark.parametrize("row", pairwise(FACTORS), ids=lambda row: "-".join(map(str, row.values())))
def test_only_numbers_are_copied_in_any_training(row):
    average = {} if row["optimizer"] == "schedule_free" else {"ema_decay": 0.9}  # It has one of its own.
    step, evaluation = traced(**row, image_size=32, **average)
    assert copies(step) <= DECISIONS | CLOCK | ORDER | TABLES and copies(evaluation) <= ORDER
    assert step.problems == evaluation.problems == 0
