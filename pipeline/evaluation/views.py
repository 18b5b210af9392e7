"""Test-time augmentation: the same examples, seen again a little shifted or mirrored, always in the same way."""
import dataclasses

import tensorflow as tf

# (right, down) in pixels, the nearest first.
SHIFTS = ((0, 0), (1, 0), (-1, 0), (0, 1), (0, -1), (1, 1), (-1, -1), (1, -1), (-1, 1),
          (2, 0), (-2, 0), (0, 2), (0, -2), (2, 2), (-2, -2), (2, -2))


@dataclasses.dataclass(frozen=True)
class View:
    """One way to look at an image: shifted by whole pixels, and mirrored left and right before that."""

    right: int = 0
    down: int = 0
    mirrored: bool = False

    def __str__(self):
        said = [f"{abs(amount)} {names[amount > 0]}" for amount, names in (
            (self.right, ("left", "right")), (self.down, ("up", "down"))) if amount]
        return " and ".join([*(["mirrored"] if self.mirrored else []), *said]) or "as it is"

    def apply(self, images):
        """Returns uint8 [n, H, W, C] images seen so; what comes in at a border repeats the border's pixels."""
        if self.mirrored:
            images = tf.reverse(images, [2])
        for axis, amount in ((1, self.down), (2, self.right)):
            if amount:
                size = images.shape[axis]
                images = tf.gather(images, tf.clip_by_value(tf.range(size) - amount, 0, size - 1), axis=axis)
        return images


def views(count, mirror):
    """Returns the first `count` views: the image itself, and its nearest shifts.

    Args:
      count: from 1 to 16.
      mirror: whether each is also seen mirrored, for a model that was trained on mirrored images.
    """
    ways = (False, True) if mirror else (False,)
    return tuple(View(right, down, mirrored) for right, down in SHIFTS for mirrored in ways)[:count]


class ViewReader:
    """Reads what another Reader reads, in order, as a view of it."""

    def __init__(self, reader, view):
        """
        Args:
          reader: see pipeline.data.source.Reader.
          view: View.
        """
        self._reader, self._view = reader, view

    def in_order(self, start_batch, batch_size, finish):
        """As in pipeline.data.source.Reader."""
        return self._reader.in_order(start_batch, batch_size, lambda images, labels, number: finish(
            self._view.apply(images), labels, number))

    def select(self, index):
        """As in pipeline.data.source.Reader."""
        return ViewReader(self._reader.select(index), self._view)

    def read_labels(self):
        """As in pipeline.data.source.Reader."""
        return self._reader.read_labels()


def seen(split, view):
    """Returns a Split whose images are seen in a view."""
    return split if view == View() else dataclasses.replace(split, reader=ViewReader(split.reader, view))
