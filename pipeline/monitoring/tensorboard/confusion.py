"""The confusion matrix as an image: correct in blue, wrong in red, each row shaded by the share of its true class."""
import functools
from collections.abc import Sequence
from typing import Any

import numpy as np
from PIL import Image, ImageDraw

from pipeline.monitoring.tensorboard.canvas import FAINT, INK, LABEL, MARGIN, PAPER, TITLE, blank, draw, fit, font

SIDE = 720  # Pixels: size of a matrix of many classes, about.
MOST_NUMBERED, MOST_NAMED = 25, 60  # Classes.
CELL, SMALLEST_CELL = 44, 26  # Pixels of a cell with a number in it.
LONGEST_NAME = 120  # Pixels.
CORRECT, MISTAKE, EMPTY = (21, 88, 176), (196, 43, 28), (241, 243, 244)


class ConfusionImage:
    """Draws confusion matrices of the same classes, given by name in the order of the labels; labels are drawn once."""

    def __init__(self, class_names: Sequence[str]):
        self.classes = len(class_names)
        self.numbered, self.named = self.classes <= MOST_NUMBERED, self.classes <= MOST_NAMED
        self._block = -(-self.classes // SIDE)  # Classes that share a pixel.
        self._cell = (max(SMALLEST_CELL, min(CELL, SIDE // self.classes)) if self.numbered
                      else max(1, SIDE * self._block // self.classes))
        size = 10 if self._cell < 18 else 11 if self._cell < 34 else LABEL
        self._letters = font(size)
        names = [fit(name, LONGEST_NAME, size) for name in class_names] if self.named else []
        longest = max((round(self._letters.getlength(name)) for name in names), default=0)
        self._upright = longest + 4 > self._cell
        self._left = MARGIN + LABEL + 8 + longest + 6
        self._top = MARGIN + TITLE + 12 + LABEL + 8 + (longest if self._upright else size if names else 0) + 6
        self._side = -(-self.classes // self._block) * self._cell
        self._right = 52 if self.numbered else 0
        self._background = self._draw_background(names)

    def _draw_background(self, names: Sequence[str]) -> np.ndarray:
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
        _paste_upright(image, "true", axis, MARGIN + LABEL // 2, self._top + self._side // 2, centered=True)
        if self.numbered:
            pen.text((self._left + self._side + 6, self._top - 6), "recall", FAINT, font(11), anchor="ls")
        return np.asarray(image)

    def draw(self, matrix: np.ndarray, title: str) -> Image.Image:
        """Draws a matrix, int64 [classes, classes], examples by true and predicted class.

        Numbers are examples. The shade is the share of the true class; for mistakes its square root, which keeps rare
        ones visible.
        """
        shares = matrix / np.maximum(matrix.sum(axis=1, keepdims=True), 1)
        pixels, left, top, cell = self._background.copy(), self._left, self._top, self._cell
        area = shade(blocks(shares, self._block)).repeat(cell, axis=0).repeat(cell, axis=1)
        if cell > 8:
            area[::cell], area[:, ::cell] = PAPER, PAPER
        pixels[top:top + self._side, left:left + self._side] = area
        image, pen = draw(pixels)
        pen.text((MARGIN, MARGIN), title, INK, font(TITLE))
        if self.numbered:
            self._write_numbers(pen, matrix, shares)
        return image.quantize(palette=palette(), dither=Image.Dither.NONE)

    def _write_numbers(self, pen: ImageDraw.ImageDraw, matrix: np.ndarray, shares: np.ndarray) -> None:
        cell, middle = self._cell, self._cell // 2
        for row, column in np.argwhere(matrix).tolist():
            share = shares[row, column]
            dark = share > 0.5 if row == column else share > 0.25
            place = (self._left + column * cell + middle, self._top + row * cell + middle)
            pen.text(place, short(matrix[row, column]), PAPER if dark else INK, self._letters, anchor="mm")
        for row in np.flatnonzero(matrix.sum(axis=1)).tolist():
            place = (self._left + self._side + 6, self._top + row * cell + middle)
            pen.text(place, f"{shares[row, row]:.0%}", FAINT, self._letters, anchor="lm")


@functools.cache
def palette() -> Image.Image:
    """Returns a PIL image with the palette of the images, shades and grays: files become a third as large."""
    ramp = np.linspace(0, 1, 80)[:, None]
    colors = [EMPTY + ramp * (np.array(CORRECT) - EMPTY), EMPTY + ramp * (np.array(MISTAKE) - EMPTY),
              PAPER + ramp * (np.array(INK) - PAPER)]
    image = Image.new("P", (1, 1))
    image.putpalette(np.concatenate(colors).round().astype(np.uint8).tobytes())
    return image


def blocks(shares: np.ndarray, block: int) -> np.ndarray:
    """Merges blocks of `block` x `block` classes of [classes, classes]: mean of the diagonal, or largest mistake."""
    if block == 1:
        return shares
    count = -(-len(shares) // block)
    padded = np.zeros((count * block, count * block))
    padded[:len(shares), :len(shares)] = shares
    found = padded.reshape(count, block, count, block).max(axis=(1, 3))
    correct = np.diagonal(padded).reshape(count, block).sum(axis=1)
    np.fill_diagonal(found, correct / np.minimum(block, len(shares) - np.arange(count) * block))
    return found


def shade(shares: np.ndarray) -> np.ndarray:
    """Returns the colors of shares in [0, 1], true by predicted class: uint8 [n, n, 3]."""
    colors = EMPTY + np.sqrt(shares)[..., None] * (np.array(MISTAKE) - EMPTY)
    index = np.arange(len(shares))
    colors[index, index] = EMPTY + np.diagonal(shares)[:, None] * (np.array(CORRECT) - EMPTY)
    return colors.astype(np.uint8)


def short(count: int) -> str:
    """Returns a count in at most four characters: 9999, 12k."""
    return str(count) if count < 10000 else f"{count // 1000}k"


def _paste_upright(image: Image.Image, text: str, letters: Any, x: int, y: int, centered: bool = False) -> None:
    """Writes a text upwards: centered over x, and ending at y or centered there."""
    left, top, right, bottom = letters.getbbox(text)
    label = Image.new("RGB", (right + 2, bottom + 2), PAPER)
    ImageDraw.Draw(label).text((0, 0), text, FAINT if centered else INK, letters)
    label = label.rotate(90, expand=True)
    height = label.height // 2 if centered else label.height
    image.paste(label, (x - (bottom + top) // 2, y - height))
