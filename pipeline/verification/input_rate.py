"""How fast this machine makes training batches of a data set, next to how fast GPUs of known speed would train."""
import dataclasses
import os
import time
from collections.abc import Sequence

import tensorflow as tf

from pipeline.augmentation import augmentations, check_strengths
from pipeline.config import ExperimentConfig
from pipeline.console import STANDARD
from pipeline.data.load import load
from pipeline.data.memory import InMemory
from pipeline.data.source import Source
from pipeline.data.stream import BatchLayout, train_stream
from pipeline.data.unused_options import warn_unused
from pipeline.quantities import counted, number
from pipeline.verification.installation import OK, WARNING, Finding

SECONDS, WARM_SHARE = 2.0, 0.25  # What is measured; before that, its share in which buffers are emptied.


@dataclasses.dataclass(frozen=True)
class GpuSpeed:
    """Training of ResNet-50 v1.5 in mixed precision on one GPU.

    Attributes:
      name: part of the name that the driver gives.
      images_per_second: of SIDE x SIDE pixels.
      published: whether this was measured and published, else it is an estimate.
    """

    name: str
    images_per_second: float
    published: bool = True


SIDE = 224
# V100 and A100: NVIDIA's DeepLearningExamples, TensorFlow/Classification/ConvNets/resnet50v1.5, one GPU, mixed
# precision with XLA, batch 256. H100: an estimate, since no such figure is published for TensorFlow.
KNOWN = (GpuSpeed("V100", 1_270), GpuSpeed("A100", 2_375), GpuSpeed("H100", 4_500, published=False))


def check_input(config: ExperimentConfig, gpus: Sequence[str], seconds: float = SECONDS) -> list[Finding]:
    """Opens the data set of a configuration, measures its training stream, and compares it with GPUs.

    Args:
      config: its data options and batch size are used.
      gpus: names of the GPUs of this machine.
      seconds: that are measured.

    Returns:
      A Finding about the data set and one about GPUs.

    Raises:
      UsageError, RunFailure: the data set cannot be used, or not with these options.
    """
    check_strengths(config.data.augment)
    source = load(config.data, config.training.batch_size)
    check_strengths(config.data.augment, source.image_shape)
    warn_unused(config.data, source, STANDARD)
    in_step = config.data.augment_on == "device" or (config.data.augment_on == "auto" and bool(gpus))
    stream = train_stream(source.train, BatchLayout(config.training.batch_size), config.training.seed, 0,
                          augmentations(config.data), in_step)
    rate = measure(stream, seconds)
    text = f"{describe(source, config, rate, in_step)}; measured for {seconds:g} s"
    return [Finding("input", OK, text), compare(rate, source.image_shape, gpus)]


def measure(stream: tf.data.Dataset, seconds: float) -> float:
    """Returns the images/s of an endless stream, by the clock.

    Args:
      stream: of batches with "image" [B, H, W, C].
      seconds: measured; at least one batch.
    """
    iterator = iter(stream)

    def take(duration):
        images, began = 0, time.monotonic()
        while not images or time.monotonic() < began + duration:
            images += int(next(iterator)["image"].shape[0])
        return images / (time.monotonic() - began)

    take(WARM_SHARE * seconds)
    return take(seconds)


def describe(source: Source, config: ExperimentConfig, rate: float, in_step: bool) -> str:
    """Returns the rate of a data set, images/s, in words; in_step: augmentations of pixels are left to the step."""
    height, width, _ = source.image_shape
    how = "from memory" if isinstance(source.train.reader, InMemory) else "decoded while training"
    augment = f", --augment={','.join(config.data.augment)}" if config.data.augment else ""
    where = " (pixels: inside the step)" if augment and in_step else ""
    return (f"{source.name}: {number(rate)} images/s of {height}x{width} {how}, in batches of "
            f"{config.training.batch_size} on {counted(len(os.sched_getaffinity(0)), 'core')}{augment}{where}")


def compare(rate: float, shape: Sequence[int], gpus: Sequence[str]) -> Finding:
    """Returns the Finding about which is slower, this machine's input or GPUs that train ResNet-50.

    Args:
      rate: images/s of the input.
      shape: (height, width, ...) of an image; the published figures are scaled by pixels.
      gpus: names of the GPUs of this machine. Those of unknown speed are left out; without any of known speed, all of
        KNOWN are compared.
    """
    scale = SIDE**2 / (shape[0] * shape[1])
    here = [gpu for name in gpus for gpu in KNOWN if gpu.name in name]
    speeds = {gpu.name: gpu.images_per_second * scale for gpu in KNOWN}
    estimates = [gpu.name for gpu in here or KNOWN if not gpu.published]
    if here:
        speeds = {f"{len(here)} {here[0].name}": sum(gpu.images_per_second for gpu in here) * scale}
    each = _joined([f"{_rounded(speed)} ({name})" for name, speed in speeds.items()])
    origin = f"published; {estimates[0]}: estimated" if estimates else "published"
    if scale != 1:
        origin = f"estimated by pixels from figures for {SIDE}x{SIDE}"
    elif len(estimates) == len(here or KNOWN):
        origin = "estimated"
    behind = {name: speed for name, speed in speeds.items() if rate < speed}
    limits = _joined([f"{rate / speed:.0%} ({name})" for name, speed in behind.items()])
    verdict = f"input limits training to {limits} of that" if behind else "input is faster"
    text = f"ResNet-50 in mixed precision trains on {each} images/s of this size ({origin}): {verdict}"
    if here and behind:
        return Finding("GPU speed", WARNING, text, "more CPU cores, a smaller --image_size, or smaller files")
    return Finding("GPU speed", OK, text)


def _joined(texts):
    return " and ".join([*([", ".join(texts[:-1])] if texts[1:] else []), texts[-1]]) if texts else ""


def _rounded(rate):
    """Returns a figure with the digits that an estimate has."""
    return f"{float(f'{rate:.2g}') if rate > 5_000 else rate:,.0f}"
