"""What the step is told when it is traced, and how it looks at images."""
import dataclasses

import tensorflow as tf

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
    image_mean: tuple = None
    image_deviation: tuple = None
    label_smoothing: float = 0.0
    clip_norm: float = 0.0
    ema_decay: float = 0.0
    class_weights: tuple = None
    scale_loss: bool = False
    synchronize: bool = False
    xla: bool = False
    earlier_updates: int = 0
    bucket_bytes: int = 0
    loss: str = "cross_entropy"
    metrics: tuple = ()


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
