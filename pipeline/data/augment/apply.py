"""A list of augmentations applied to a batch."""
from collections.abc import Sequence
from typing import Any

import tensorflow as tf

from pipeline.augmentation import Augmentation
from pipeline.choices import AUGMENTATIONS
from pipeline.data.augment.kernels import change_some, take, to_uint8
from pipeline.data.augment.mixing import of_pairs
from pipeline.data.augment.resized_crop import resized_crop
from pipeline.data.stateless_random import example_seeds, fold_in, uniform
from pipeline.device_scope import on_gpu
from pipeline.errors import UsageError
from pipeline.preprocessing import RESIZED_CROP
from pipeline.registration import format_location, raise_with_location
from pipeline.registry import RegistryEntry

_PART_BYTES = 640_000  # Of images computed together on a CPU: with their copies in float32 they stay in its cache.
_SWITCH = 2**32 - 1  # Folded in for the choice among those that mix: no place in a list.


def apply(images: Any, positions: Any, seed: int, augmentations: Sequence[Augmentation], first: int = 0,
          image_size: int | None = None) -> tuple[Any, Any]:
    """Applies augmentations in order; of several that mix each pair of images gets one, drawn uniformly.

    Args:
      images: uint8 [B, H, W, C], with a static shape.
      positions: int64 [B], the rows' positions in the stream; with mixing B is even and positions[0] too.
      seed: the run's seed.
      augmentations: a strength of None takes its default.
      first: index of the first one to apply; those before have been applied while decoding.
      image_size: height and width that images are resized to before, or by resized_crop where it is the first; None:
        as they are.

    Returns:
      (images, mix): uint8 [B, H, W, C] or [B, image_size, image_size, C], and float32 [B] in [0, 1], the share of the
      own image in each row, the rest being the neighbour's; None without mixing.

    Raises:
      UsageError: an unknown name, or a user's augmentation that fails or is no function of (seed, position).
    """
    # The place in the list is folded in so that the same augmentation given twice draws twice.
    seeds = fold_in(example_seeds(seed, positions), [*range(first, len(augmentations)), _SWITCH])
    augmentations = augmentations[first:]
    mixes = any(augmentation.mixes for augmentation in augmentations)
    size = images.shape[0] if on_gpu() else _part_size(images.shape, 2 if mixes else 1)
    if size == images.shape[0]:
        images, mix = _apply_to_part(images, seeds, augmentations, image_size)
    else:
        def apply_to(row):
            part, own_seeds = (tf.ensure_shape(value[row:row + size], [size, *value.shape[1:]])
                               for value in (images, seeds))
            return _apply_to_part(part, own_seeds, augmentations, image_size)

        shape = (image_size, image_size, images.shape[-1]) if image_size else images.shape[1:]
        signature = (tf.TensorSpec([size, *shape], tf.uint8), tf.TensorSpec([size], tf.float32))
        found = tf.map_fn(apply_to, tf.range(0, images.shape[0], size), fn_output_signature=signature)
        images, mix = (tf.reshape(value, [-1, *value.shape[2:]]) for value in found)
    return images, mix if mixes else None


def draw_mixing(seeds: tf.Tensor, count: int) -> tf.Tensor:
    """Draws which of several augmentations mixes the rows 2i and 2i + 1: int64 [B] in [0, count), equal in a pair.

    Args:
      seeds: int64 [B, 2]; draw 0 of the even rows is used.
      count: how many there are, each drawn with the same probability.
    """
    return tf.cast(uniform(of_pairs(seeds), 0) * count, tf.int64)


def _resized(images, seeds, augmentations, image_size):
    """Returns images of a size, None for their own, and how many augmentations that applied: resized_crop, or none.

    A part is drawn from the whole image as it was: of a smaller one it would have fewer pixels.
    """
    if image_size is None:
        return images, 0
    size = image_size, image_size
    if [augmentation.name for augmentation in augmentations[:1]] == [RESIZED_CROP]:
        strength = augmentations[0].strength
        least_area = AUGMENTATIONS.find(RESIZED_CROP).row.default if strength is None else strength
        return resized_crop(images, seeds[:, 0], least_area, size), 1
    if tuple(images.shape[1:3]) == size:
        return images, 0
    return to_uint8(tf.raw_ops.ResizeBilinear(images=images, size=tf.constant(size), half_pixel_centers=True)), 0


def _apply_to_part(images, seeds, augmentations, image_size):
    """Returns (images, mix) as `apply` does, mix of ones without mixing; seeds are int64 [B, augmentations + 1, 2]."""
    images, done = _resized(images, seeds, augmentations, image_size)
    mix, mixing = tf.ones(images.shape[:1]), [a.mixes for a in augmentations]
    chosen = draw_mixing(seeds[:, -1], sum(mixing)) if sum(mixing) > 1 else None
    for place, augmentation in list(enumerate(augmentations))[done:]:
        entry, strength = AUGMENTATIONS.find(augmentation.name), augmentation.strength
        if strength is None:
            strength = entry.row.default_for(images.shape[1])
        function = entry.load() if entry.location is None else _checked(f"augmentation {augmentation.name}", entry)
        found = function(images, seeds[:, place], strength)
        if not mixing[place]:
            images = found
        elif chosen is None:
            images, mix = found
        else:
            mixed, drawn = found[0], chosen == sum(mixing[:place])
            images = change_some(images, tf.where(drawn, 0, -1), [lambda _, rows, mixed=mixed: take(mixed, rows)])
            mix = tf.where(drawn, found[1], mix)
    return images, mix


def _part_size(shape, multiple):
    """Returns how many images of a batch are computed together: a divisor of their number, a multiple of `multiple`.

    All of them, where each divisor is far from the best size.
    """
    count, most = shape[0], max(multiple, _PART_BYTES // (shape[1] * shape[2] * shape[3]))
    size = max((n for n in range(multiple, min(most, count) + 1, multiple) if count % n == 0), default=count)
    return size if size >= most / 4 else count


def _checked(what: str, entry: RegistryEntry) -> Any:
    """Wraps a user's function: its errors, and what is no augmentation, become one line with its location."""
    def checked(images, seeds, strength):
        seeds = tf.cast(seeds, tf.int32)
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
