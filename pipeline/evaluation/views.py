"""Test-time augmentation: fixed views of the same examples, shifted by a pixel or two and mirrored."""
import dataclasses
from collections.abc import Callable
from typing import Any, cast

import tensorflow as tf

from pipeline.data.source import Split

# (right, down) in pixels, the nearest first.
SHIFTS = ((0, 0), (1, 0), (-1, 0), (0, 1), (0, -1), (1, 1), (-1, -1), (1, -1), (-1, 1),
          (2, 0), (-2, 0), (0, 2), (0, -2), (2, 2), (-2, -2), (2, -2))


@dataclasses.dataclass(frozen=True)
class View:
    """A view of an image: mirrored left to right, then shifted by whole pixels."""

    right: int = 0
    down: int = 0
    mirrored: bool = False

    def __str__(self) -> str:
        parts = [f"{abs(amount)} {names[amount > 0]}" for amount, names in (
            (self.right, ("left", "right")), (self.down, ("up", "down"))) if amount]
        return " and ".join([*(["mirrored"] if self.mirrored else []), *parts]) or "as it is"

    def apply(self, images: Any) -> Any:
        """Returns the view of uint8 [n, H, W, C] images; pixels shifted in repeat those of the border."""
        if self.mirrored:
            images = tf.reverse(images, [2])
        for axis, amount in ((1, self.down), (2, self.right)):
            if amount:
                size = images.shape[axis]
                images = tf.gather(images, tf.clip_by_value(tf.range(size) - amount, 0, size - 1), axis=axis)
        return images


def views(count: int, mirror: bool) -> tuple[View, ...]:
    """Returns the first `count` views: the image itself, and its nearest shifts.

    Args:
      count: from 1 to 16.
      mirror: add the mirrored image of each, for a model that was trained with mirrored images.
    """
    ways = (False, True) if mirror else (False,)
    return tuple(View(right, down, mirrored) for right, down in SHIFTS for mirrored in ways)[:count]


class ViewReader:
    """Reads a view of the images of another Reader, in order; a part of pipeline.data.source.Reader."""

    def __init__(self, reader: Any, view: View):
        self._reader, self._view = reader, view

    def in_order(self, start_batch: Any, batch_size: int, finish: Callable) -> Any:
        """As in pipeline.data.source.Reader."""
        return self._reader.in_order(start_batch, batch_size, lambda images, labels, number: finish(
            self._view.apply(images), labels, number))

    def select(self, index: Any) -> "ViewReader":
        """As in pipeline.data.source.Reader."""
        return ViewReader(self._reader.select(index), self._view)

    def read_labels(self) -> Any:
        """As in pipeline.data.source.Reader."""
        return self._reader.read_labels()


def seen(split: Split, view: View) -> Split:
    """Returns a Split whose images are views."""
    return split if view == View() else dataclasses.replace(split, reader=cast(Any, ViewReader(split.reader, view)))
