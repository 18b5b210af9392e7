"""The confusion matrix as a picture: hits in blue, mistakes in red, each row shaded by the share of its true class."""
import functools

import numpy as np
from PIL import Image, ImageDraw

from pipeline.monitoring.tensorboard.canvas import FAINT, INK, LABEL, MARGIN, PAPER, TITLE, blank, draw, fit, font

SIDE = 720  # Pixels: about what the matrix takes of many classes.
MOST_NUMBERED, MOST_NAMED = 25, 60  # Classes.
CELL, SMALLEST_CELL = 44, 26  # Pixels of a cell with a number in it.
LONGEST_NAME = 120  # Pixels.
HIT, MISTAKE, EMPTY = (21, 88, 176), (196, 43, 28), (241, 243, 244)


class ConfusionPicture:
    """Draws confusion matrices of the same classes; what stays the same is drawn once."""

    def __init__(self, class_names):
        """Args: class_names: in the order of the labels."""
        self.classes = len(class_names)
        self.numbered, self.named = self.classes <= MOST_NUMBERED, self.classes <= MOST_NAMED
        self._block = -(-self.classes // SIDE)  # Classes that share a pixel.
        self._cell = self._cell_size()
        size = 10 if self._cell < 18 else 11 if self._cell < 34 else LABEL
        self._letters = font(size)
        names = [fit(name, LONGEST_NAME, size) for name in class_names] if self.named else []
        longest = max((round(self._letters.getlength(name)) for name in names), default=0)
        self._upright = longest + 4 > self._cell
        self._left = MARGIN + LABEL + 8 + longest + 6
        self._top = MARGIN + TITLE + 12 + LABEL + 8 + (longest if self._upright else size if names else 0) + 6
        self._side = -(-self.classes // self._block) * self._cell
        self._right = 52 if self.numbered else 0
        self._ground = self._draw_ground(names)

    def _cell_size(self):
        if self.numbered:
            return max(SMALLEST_CELL, min(CELL, SIDE // self.classes))
        return max(1, SIDE * self._block // self.classes)

    def _draw_ground(self, names):
        """Returns uint8 [height, width, 3] with the names of the classes and of the axes."""
        width = max(self._left + self._side + self._right + MARGIN, 520)
        image, pen = draw(blank(width, self._top + self._side + MARGIN))
        for i, name in enumerate(names):
            middle = round((i + 0.5) * self._cell)
            pen.text((self._left - 6, self._top + middle), name, INK, self._letters, anchor="rm")
            if self._upright:
                _paste_upright(image, name, self._letters, self._left + middle, self._top - 6)
            else:
                pen.text((self._left + middle, self._top - 6), name, INK, self._letters, anchor="ms")
        axis = font(LABEL)
        pen.text((self._left + self._side // 2, MARGIN + TITLE + 12), "predicted", FAINT, axis, anchor="ma")
        _paste_upright(image, "true", axis, MARGIN + LABEL // 2, self._top + self._side // 2, centred=True)
        if self.numbered:
            pen.text((self._left + self._side + 6, self._top - 6), "right", FAINT, font(11), anchor="ls")
        return np.asarray(image)

    def draw(self, matrix, title):
        """Draws a matrix.

        Args:
          matrix: int64 [classes, classes], examples by true and predicted class.
          title: what it is of.

        Returns:
          A PIL image. Numbers are examples, the shade is the share of the true class: straight for hits, its root for
          mistakes, so that rare ones are seen too.
        """
        shares = matrix / np.maximum(matrix.sum(axis=1, keepdims=True), 1)
        pixels, left, top, cell = self._ground.copy(), self._left, self._top, self._cell
        area = shade(blocks(shares, self._block)).repeat(cell, axis=0).repeat(cell, axis=1)
        if cell > 8:
            area[::cell], area[:, ::cell] = PAPER, PAPER
        pixels[top:top + self._side, left:left + self._side] = area
        image, pen = draw(pixels)
        pen.text((MARGIN, MARGIN), title, INK, font(TITLE))
        if self.numbered:
            self._write_numbers(pen, matrix, shares)
        return image.quantize(palette=palette(), dither=Image.Dither.NONE)

    def _write_numbers(self, pen, matrix, shares):
        cell, middle = self._cell, self._cell // 2
        for row, column in zip(*np.nonzero(matrix), strict=True):
            share = shares[row, column]
            dark = share > 0.5 if row == column else share > 0.25
            place = (self._left + column * cell + middle, self._top + row * cell + middle)
            pen.text(place, short(matrix[row, column]), PAPER if dark else INK, self._letters, anchor="mm")
        for row in np.flatnonzero(matrix.sum(axis=1)):
            place = (self._left + self._side + 6, self._top + row * cell + middle)
            pen.text(place, f"{shares[row, row]:.0%}", FAINT, self._letters, anchor="lm")


@functools.cache
def palette():
    """Returns the PIL image whose colours the pictures have, shades and greys: it makes a file a third as large."""
    ramp = np.linspace(0, 1, 80)[:, None]
    colours = [EMPTY + ramp * (np.array(HIT) - EMPTY), EMPTY + ramp * (np.array(MISTAKE) - EMPTY),
               PAPER + ramp * (np.array(INK) - PAPER)]
    image = Image.new("P", (1, 1))
    image.putpalette(np.concatenate(colours).round().astype(np.uint8).tobytes())
    return image


def blocks(shares, block):
    """Returns [classes, classes] with `block` classes each way made one: the diagonal's mean, the largest mistake."""
    if block == 1:
        return shares
    count = -(-len(shares) // block)
    padded = np.zeros((count * block, count * block))
    padded[:len(shares), :len(shares)] = shares
    found = padded.reshape(count, block, count, block).max(axis=(1, 3))
    hits = np.diagonal(padded).reshape(count, block).sum(axis=1)
    np.fill_diagonal(found, hits / np.minimum(block, len(shares) - np.arange(count) * block))
    return found


def shade(shares):
    """Returns the colours of shares in [0, 1], true by predicted class: uint8 [n, n, 3]."""
    strength = np.sqrt(shares)[..., None]
    coloured = EMPTY + strength * (np.array(MISTAKE) - EMPTY)
    index = np.arange(len(shares))
    coloured[index, index] = EMPTY + np.diagonal(shares)[:, None] * (np.array(HIT) - EMPTY)
    return coloured.astype(np.uint8)


def short(count):
    """Returns a count in at most four letters: 9999, 12k."""
    return str(count) if count < 10000 else f"{count // 1000}k"


def _paste_upright(image, text, letters, x, y, centred=False):
    """Writes a text from below to above: its middle over x, its end at y, or its middle there."""
    left, top, right, bottom = letters.getbbox(text)
    label = Image.new("RGB", (right + 2, bottom + 2), PAPER)
    ImageDraw.Draw(label).text((0, 0), text, FAINT if centred else INK, letters)
    label = label.rotate(90, expand=True)
    height = label.height // 2 if centred else label.height
    image.paste(label, (x - (bottom + top) // 2, y - height))
