"""How far rounding alone moves the probabilities of a trained model."""
from typing import Any

import numpy as np

ALONE = 256  # Images, those of the lowest confidence, that are computed again.


def rounding(trained: Any, live: np.ndarray, images: np.ndarray) -> float:
    """Returns the largest change of a probability by rounding.

    The larger of two: an image alone against the same in a batch, for which TensorFlow has other kernels, and the model
    against itself with every weight moved to a neighbouring float, as another runtime rounds every operation its way.

    Args:
      trained: TrainedModel, in float32.
      live: float32 [N, classes], its probabilities.
      images: uint8 [N, H, W, C].
    """
    unsure = np.argsort(live.max(axis=1), kind="stable")[:ALONE]
    alone = np.concatenate([trained.probabilities(images[i:i + 1]) for i in unsure])
    moved = _with_moved_weights(trained, images[unsure])
    return float(max(np.abs(other.astype(np.float64) - live[unsure]).max() for other in (alone, moved)))


def _with_moved_weights(trained, images):
    """Returns the probabilities of the model with each weight one unit in the last place up or down, at random."""
    rng, weights = np.random.default_rng(0), trained.model.trainable_variables
    before = [weight.numpy() for weight in weights]
    try:
        for weight, value in zip(weights, before, strict=True):
            side = np.where(rng.random(value.shape) < 0.5, -np.inf, np.inf).astype(value.dtype)
            weight.assign(np.nextafter(value, side))
        return trained.probabilities(images)
    finally:
        for weight, value in zip(weights, before, strict=True):
            weight.assign(value)
