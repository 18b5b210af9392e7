"""A list of augmentations applied to a batch."""
from collections.abc import Sequence
from typing import Any

import tensorflow as tf

from pipeline.augmentation import Augmentation
from pipeline.choices import AUGMENTATIONS
from pipeline.data.stateless_random import example_seeds, fold_in
from pipeline.errors import UsageError
from pipeline.registration import format_location, raise_with_location
from pipeline.registry import RegistryEntry


def apply(images: Any, positions: Any, seed: int, augmentations: Sequence[Augmentation], first: int = 0
          ) -> tuple[Any, Any]:
    """Applies augmentations in order.

    Args:
      images: uint8 [B, H, W, C], with a static shape.
      positions: int64 [B], the rows' positions in the stream; with mixing B is even and positions[0] too.
      seed: the run's seed.
      augmentations: a strength of None takes its default.
      first: index of the first one to apply; those before have been applied while decoding.

    Returns:
      (images, mix): uint8 [B, H, W, C], and float32 [B] in [0, 1], the share of the own image in each row, the rest
      being the neighbour's; None without mixing.

    Raises:
      UsageError: an unknown name, or a user's augmentation that fails or is no function of (seed, position).
    """
    seeds, mix = example_seeds(seed, positions), None
    for place, augmentation in enumerate(augmentations):
        if place < first:
            continue
        entry, strength = AUGMENTATIONS.find(augmentation.name), augmentation.strength
        if strength is None:
            strength = entry.row.default_for(images.shape[1])
        own_seeds = fold_in(seeds, place)  # So that the same augmentation given twice draws twice.
        function = entry.load() if entry.location is None else _checked(f"augmentation {augmentation.name}", entry)
        found = function(images, own_seeds, strength)
        images, mix = found if entry.row.mixes else (found, mix)
    return images, mix


def _checked(what: str, entry: RegistryEntry) -> Any:
    """Wraps a user's function: its errors, and what is no augmentation, become one line with its location."""
    def checked(images, seeds, strength):
        where = f"{what} ({format_location(entry.location)})"
        with raise_with_location(what, entry.location):
            with tf.Graph().as_default() as graph:
                entry.origin(*(tf.compat.v1.placeholder(x.dtype, x.shape) for x in (images, seeds)), strength)
            stateful = [op.type for op in graph.get_operations() if op.op_def.is_stateful and op.type != "Assert"]
            if stateful:
                raise UsageError(f"{where} uses TensorFlow's {stateful[0]}, which depends on more than the seeds: draw "
                                 "with pipeline.data.stateless_random.uniform(seeds, draw)")
            found = entry.origin(images, seeds, strength)
            result, mix = found if entry.row.mixes else (found, None)
            if not tf.is_tensor(result) or result.dtype != tf.uint8 or result.shape != images.shape:
                raise UsageError(f"{where} must return uint8 images of shape {images.shape}; found "
                                 f"{getattr(result, 'dtype', type(result).__name__)} {getattr(result, 'shape', '')}")
            return (result, tf.ensure_shape(tf.cast(mix, tf.float32), images.shape[:1])) if entry.row.mixes else result

    return checked
