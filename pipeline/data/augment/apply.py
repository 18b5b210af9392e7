"""A list of augmentations applied to a batch."""
from pipeline.data.augment.color import color
from pipeline.data.augment.geometry import crop, cutout, flip, rotate
from pipeline.data.augment.mixing import cutmix, mixup
from pipeline.data.augment.randaugment import randaugment
from pipeline.data.stateless_random import example_seeds, fold
from pipeline.options import AUGMENTATIONS

_SINGLE = {"flip": flip, "crop": crop, "rotate": rotate, "color": color, "cutout": cutout, "randaugment": randaugment}
MIXING = {"mixup": mixup, "cutmix": cutmix}


def apply(images, positions, seed, augmentations):
    """Applies augmentations in order.

    Args:
      images: uint8 [B, H, W, C], with a static shape.
      positions: int64 [B], the rows' positions in the stream; with mixing B is even and positions[0] too.
      seed: integer, the run's seed.
      augmentations: tuple of pipeline.options.Augmentation; a strength of None takes its default.

    Returns:
      (images, mix): uint8 [B, H, W, C], and float32 [B] in [0, 1], the share of the own image in each row, the rest
      being the neighbour's; None without mixing.
    """
    seeds, mix = example_seeds(seed, positions), None
    for place, augmentation in enumerate(augmentations):
        name, strength = augmentation.name, augmentation.strength
        if strength is None:
            strength = AUGMENTATIONS[name].default(images.shape[1])
        own_seeds = fold(seeds, place)  # So that the same augmentation given twice draws twice.
        if name in MIXING:
            images, mix = MIXING[name](images, own_seeds, strength)
        else:
            images = _SINGLE[name](images, own_seeds, strength)
    return images, mix
