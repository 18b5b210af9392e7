"""Settings of the step, constants of its graph, and the preprocessing of images."""
import dataclasses
from collections.abc import Mapping, Sequence

import tensorflow as tf

from pipeline.augmentation import Augmentation, augmentations
from pipeline.choices import MODELS
from pipeline.config import ExperimentConfig
from pipeline.data import augment
from pipeline.data.source import Source
from pipeline.data.statistics import channel_statistics, class_counts
from pipeline.data.stream import decoded_crop
from pipeline.errors import UsageError
from pipeline.models.initialization import EARLIER_UPDATES
from pipeline.models.pixels import normalize
from pipeline.options import parse_class_weight, parse_clip
from pipeline.preprocessing import UNIT, Preprocessing, check_normalize


@dataclasses.dataclass(frozen=True)
class StepSettings:
    """Settings with which the step is traced.

    Attributes:
      batch_size: examples of a step over all replicas and micro-batches.
      micro_batches: parts in which a replica computes its share.
      seed: seed of dropout.
      compute_dtype: "float32" or "float64": of images, logits, losses and the reduction.
      image_channels: channels of the model's input; images of one channel are repeated.
      image_mean, image_std: [C] that normalize images in [0, 1], or None.
      input_range: of the model, one of pipeline.preprocessing.INPUT_RANGES.
      label_smoothing, clip_norm, clip_ratio, ema_decay: 0 for off.
      averaged: as in cadence.Plan, for --average_last.
      class_weights: [classes] or None.
      scale_loss: whether the loss scale is dynamic (mixed_float16).
      synchronize: batch statistics over all replicas.
      xla: compile the pure core.
      earlier_updates: updates of the moving statistics of normalization before the run.
      bucket_bytes: size of the parts in which gradients are reduced, 0 for all at once.
      loss: as --loss has it.
      metrics: names of the metrics that evaluations compute in addition to loss and accuracy.
      augmentations: those of the run, applied to batches that come with their positions.
      augmented: how many of them come with the images already.
      batches_ahead: batches that wait on each GPU.
    """

    batch_size: int
    micro_batches: int
    seed: int
    compute_dtype: str
    image_channels: int
    image_mean: Sequence[float] | None = None
    image_std: Sequence[float] | None = None
    input_range: str = UNIT
    label_smoothing: float = 0.0
    clip_norm: float = 0.0
    clip_ratio: float = 0.0
    ema_decay: float = 0.0
    averaged: Sequence[int] = ()
    class_weights: Sequence[float] | None = None
    scale_loss: bool = False
    synchronize: bool = False
    xla: bool = False
    earlier_updates: int = 0
    bucket_bytes: int = 0
    loss: str = "cross_entropy"
    metrics: Sequence[str] = ()
    augmentations: Sequence[Augmentation] = ()
    augmented: int = 0
    batches_ahead: int = 1


def step_settings(config: ExperimentConfig, source: Source, image_channels: int, replicas: int,
                  stored: Mapping | None = None, averaged: Sequence[int] = ()) -> StepSettings:
    """Returns the settings of the step.

    Args:
      source: of the data; with --normalize=per_channel and --class_weight=balanced its statistics are computed.
      image_channels: channels of the model's input.
      replicas: number of replicas.
      stored: config.json of the run, whose mean, std and input range are used, or None.
      averaged: as in cadence.Plan.

    Raises:
      UsageError: options that contradict each other.
    """
    synchronize, compiled = config.model.sync_batch_norm, config.runtime.xla == "on"
    if config.runtime.xla == "auto" and stored:  # As it was measured when the run began, see compilation.choose.
        compiled = stored.get("compiled", False) and not (synchronize and replicas > 1)
    if synchronize and compiled and replicas > 1:
        raise UsageError(f"--xla=on with {replicas} replicas needs --nosync_batch_norm: batch statistics over replicas "
                         "are a collective, which cannot be part of compiled code")
    model = config.model.model
    input_range = Preprocessing.of_run(stored).input_range if stored else MODELS.find(model).row.input_range
    check_normalize(model, input_range, config.data.normalize)
    mean, std = _mean_and_std(config, source, stored)
    optimizer, weights, chain = config.optimizer, None, augmentations(config.data)
    power = parse_class_weight(config.data.class_weight)
    if power is not None:  # N / (classes * count), as scikit-learn's "balanced", to a power.
        counts, examples = class_counts(source.train, source.num_classes), source.train.num_examples
        weights = tuple(float(examples / (source.num_classes * c)) ** power if c else 0.0 for c in counts)
    return StepSettings(
        batch_size=config.training.batch_size, micro_batches=optimizer.accumulate_steps, seed=config.training.seed,
        compute_dtype="float64" if config.runtime.precision == "float64" else "float32",
        image_channels=image_channels, image_mean=mean, image_std=std, input_range=input_range,
        label_smoothing=optimizer.label_smoothing, clip_norm=optimizer.clip_norm,
        clip_ratio=parse_clip(optimizer.clip)[1] if optimizer.clip else 0.0, ema_decay=optimizer.ema_decay,
        averaged=averaged,
        class_weights=weights, scale_loss=config.runtime.precision == "mixed_float16",
        # Compiled code rounds differently anyway, and takes the fused kernel of one replica.
        synchronize=synchronize and not compiled, xla=compiled,
        earlier_updates=EARLIER_UPDATES if config.training.initialize_from else 0,
        bucket_bytes=int(config.runtime.reduction_bucket_mb * 2**20), loss=optimizer.loss,
        metrics=config.training.metrics, augmentations=chain, augmented=decoded_crop(source.train, chain)[1],
        batches_ahead=config.runtime.prefetch_to_device)


def _mean_and_std(config, source, stored):
    """Returns (mean [C], std [C]) for --normalize=per_channel, else (None, None)."""
    if config.data.normalize == "none":
        return None, None
    if stored and stored.get("normalization"):
        return tuple(stored["normalization"]["mean"]), tuple(stored["normalization"]["deviation"])
    mean, std = channel_statistics(source.train)
    return tuple(mean), tuple(max(value, 1e-6) for value in std)


def augment_batch(batch: Mapping[str, tf.Tensor], positions: tf.Tensor, settings: StepSettings,
                  image_size: int | None = None) -> dict[str, tf.Tensor]:
    """Augments rows of a training batch where they are computed, as pipeline.data.stream does before.

    Args:
      batch: {"image": uint8 [n, H, W, C], ...}.
      positions: int64 [n], of the rows in the stream; with mixing n and the first of each pair are even.
      image_size: height and width that images in memory are resized to; None: as they are.
    """
    images, mix = augment.apply(batch["image"], positions, settings.seed, settings.augmentations, settings.augmented,
                                image_size)
    return {**batch, "image": images, **({} if mix is None else {"mix": mix})}


def preprocess(images: tf.Tensor, settings: StepSettings) -> tf.Tensor:
    """Converts images to the input of a model.

    Args:
      images: [B, H, W, C] uint8.

    Returns:
      [B, H, W, settings.image_channels] of the compute dtype, in the input range of the model, or normalized.
    """
    images = tf.cast(images, settings.compute_dtype) / 255.0
    return normalize(images, settings.image_channels, settings.image_mean, settings.image_std, settings.input_range)
