"""What the step is told when it is traced, and how it looks at images."""
import dataclasses

import tensorflow as tf

from pipeline.data.statistics import channel_statistics, class_counts
from pipeline.errors import UsageError
from pipeline.models.initialization import EARLIER_UPDATES
from pipeline.models.pixels import normalize


@dataclasses.dataclass(frozen=True)
class StepSettings:
    """Everything the step is told when it is traced.

    Attributes:
      batch_size: examples of a step over all replicas and micro-batches.
      micro_batches: parts in which a replica computes its share.
      seed: seed of dropout.
      compute_dtype: "float32" or "float64": of images, logits, losses and the reduction.
      image_channels: channels the model wants; images of one channel are repeated.
      image_mean, image_deviation: [C] tuples that normalize images in [0, 1], or None.
      label_smoothing, clip_norm, ema_decay: 0 for off.
      class_weights: [classes] tuple or None.
      scale_loss: whether the loss scale is dynamic (mixed_float16).
      synchronize: batch statistics over all replicas.
      xla: compile the pure core.
      earlier_updates: how often the moving statistics of normalization were updated before the run.
      bucket_bytes: size of the parts in which gradients are reduced, 0 for all at once.
      loss: name of the loss.
      metrics: names of the metrics that evaluations compute beside loss and accuracy.
    """

    batch_size: int
    micro_batches: int
    seed: int
    compute_dtype: str
    image_channels: int
    image_mean: tuple | None = None
    image_deviation: tuple | None = None
    label_smoothing: float = 0.0
    clip_norm: float = 0.0
    ema_decay: float = 0.0
    class_weights: tuple | None = None
    scale_loss: bool = False
    synchronize: bool = False
    xla: bool = False
    earlier_updates: int = 0
    bucket_bytes: int = 0
    loss: str = "cross_entropy"
    metrics: tuple = ()


def normalization(config, source, stored=None):
    """Returns (mean [C], deviation [C]) for --normalize=per_channel, or (None, None).

    Args:
      config: ExperimentConfig.
      source: Source.
      stored: what config.json of the run holds, used instead of computing again.
    """
    if config.data.normalize == "none":
        return None, None
    if stored and stored.get("normalization"):
        return tuple(stored["normalization"]["mean"]), tuple(stored["normalization"]["deviation"])
    mean, deviation = channel_statistics(source.train)
    return tuple(mean), tuple(max(d, 1e-6) for d in deviation)


def step_settings(config, source, image_channels, replicas, stored=None):
    """Collects what the step is told; raises UsageError where options contradict each other."""
    synchronize, compiled = config.model.sync_batch_norm, config.runtime.xla == "on"
    if synchronize and compiled and replicas > 1:
        raise UsageError(f"--xla=on with {replicas} replicas needs --nosync_batch_norm: batch statistics over replicas "
                         "are a collective, which cannot stand inside compiled code")
    mean, deviation = normalization(config, source, stored)
    weights = balanced_class_weights(source.train, source.num_classes) if (
        config.data.class_weight == "balanced") else None
    optimizer = config.optimizer
    return StepSettings(
        batch_size=config.training.batch_size, micro_batches=optimizer.accumulate_steps, seed=config.training.seed,
        compute_dtype="float64" if config.runtime.precision == "float64" else "float32",
        image_channels=image_channels, image_mean=mean, image_deviation=deviation,
        label_smoothing=optimizer.label_smoothing, clip_norm=optimizer.clip_norm, ema_decay=optimizer.ema_decay,
        class_weights=weights, scale_loss=config.runtime.precision == "mixed_float16",
        # Compiled code rounds otherwise in any case, and takes the fused kernel of one replica.
        synchronize=synchronize and not compiled, xla=compiled,
        earlier_updates=EARLIER_UPDATES if config.training.initialize_from else 0,
        bucket_bytes=int(config.runtime.reduction_bucket_mb * 2**20), loss=optimizer.loss,
        metrics=config.training.metrics)


def balanced_class_weights(split, num_classes):
    """Returns [classes] factors N / (classes * count): every class weighs the same (scikit-learn's "balanced")."""
    counts = class_counts(split, num_classes)
    return tuple(float(split.num_examples / (num_classes * c)) if c else 0.0 for c in counts)


def preprocess(images, settings):
    """Turns a batch off the bus into what a model sees.

    Args:
      images: [B, H, W, C] uint8.
      settings: StepSettings.

    Returns:
      [B, H, W, settings.image_channels] of the compute dtype, in [0, 1], or normalized.
    """
    images = tf.cast(images, settings.compute_dtype) / 255.0
    return normalize(images, settings.image_channels, settings.image_mean, settings.image_deviation)
