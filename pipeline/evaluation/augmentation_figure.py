"""A sheet of training examples as augmentations show them to a model, drawn with matplotlib."""
import dataclasses
import pathlib
import textwrap
from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from pipeline.augmentation import Augmentation
from pipeline.choices import AUGMENTATIONS
from pipeline.data.source import Source, Split
from pipeline.data.stream import BatchLayout, train_stream
from pipeline.errors import UsageError
from pipeline.evaluation.prediction_tables import keep_end
from pipeline.monitoring.tensorboard.samples import sample_captions
from pipeline.pages.own_style import own_style
from pipeline.terminal import printable

ROWS, EPOCHS = 8, 6
SMALL = 112  # Pixels of the longer side up to which images are enlarged pixel by pixel.
CELL, GAP, LINE = 1.2, 0.08, 0.13  # Inches: width of an image, between images, height of a line of text.
HEAD, MARGIN = 0.62, 0.12  # Inches.
LONGEST = 20  # Characters of a caption.
FAINT = "#697784"
STYLE: Any = {"font.size": 7, "text.color": "#1c2833", "svg.fonttype": "none", "text.parse_math": False}


@dataclasses.dataclass(frozen=True)
class Drawn:
    """One example as one epoch shows it.

    Attributes:
      image: uint8 [H, W, C].
      caption: two lines: its class, or the two mixed classes with their shares.
    """

    image: np.ndarray
    caption: tuple[str, str]


def draw_epochs(split: Split, augmentations: Sequence[Augmentation], seed: int, class_names: Sequence[str],
                rows: int = ROWS, epochs: int = EPOCHS) -> list[list[Drawn]]:
    """Computes the first epochs of a training on a few examples of a split.

    Each epoch shows each example at another position of the stream, so with other draws and other neighbours to mix
    with.

    Args:
      split: any.
      augmentations: in order of application.
      seed: the run's seed.
      class_names: in the order of the labels.
      rows: examples, spread evenly over the split; fewer in a smaller split, and an even number with mixing.
      epochs: how many.

    Returns:
      For each example 1 + epochs entries: the original, then each epoch.

    Raises:
      UsageError: too few examples to mix.
    """
    count, mixing = min(rows, split.num_examples), [a.name for a in augmentations if a.mixes]
    if mixing:
        count = count // 2 * 2
    if not count:
        raise UsageError(f"--augment={mixing[0]} mixes pairs of images; the training split has {split.num_examples}")
    part = split.select(np.linspace(0, split.num_examples - 1, count).round().astype(np.int64))
    layout = BatchLayout(count)  # A batch is an epoch.
    plain, augmented = (list(train_stream(part, layout, seed, 0, chain).take(epochs).as_numpy_iterator())
                        for chain in ((), augmentations))
    sheet = [[Drawn(image, (class_names[label], ""))]
             for image, label in zip(plain[0]["image"], plain[0]["label"], strict=True)]
    waiting = [image.tobytes() for image in plain[0]["image"]]
    for originals, batch in zip(plain, augmented, strict=True):
        captions = sample_captions(batch["label"], batch.get("mix"), class_names)
        found = [image.tobytes() for image in originals["image"]]
        for row, original in zip(sheet, waiting, strict=True):
            place = found.index(original)
            found[place] = b""  # Two examples may be the same image.
            row.append(Drawn(batch["image"][place], captions[place] if "mix" in batch else ("", "")))
    return sheet


def draw_sheet(path: str | pathlib.Path, source: Source, augmentations: Sequence[Augmentation], seed: int) -> int:
    """Draws the sheet of a data set: a row an example, the original first.

    Args:
      path: file to write, .png, .pdf or .svg.
      source: its training examples are shown.
      augmentations: in order of application.
      seed: the run's seed.

    Returns:
      The number of examples.

    Raises:
      UsageError: the file cannot be written, or the augmentations do not fit the data.
    """
    sheet = draw_epochs(source.train, augmentations, seed, source.class_names)
    height, width, channels = source.image_shape
    tall = min(3 * CELL, max(CELL / 3, CELL * height / width))
    lines = 1 + any(drawn.caption[1] for row in sheet for drawn in row)
    pitch = (CELL + GAP, tall + lines * LINE + GAP)
    texts = textwrap.wrap(" ".join(f"{name}," for name in _names(augmentations, height)).rstrip(","), 110)
    head = HEAD + len(texts) * LINE
    size = (len(sheet[0]) * pitch[0] - GAP + 2 * MARGIN, head + len(sheet) * pitch[1] + MARGIN)
    with own_style(STYLE):
        figure = Figure(figsize=size, facecolor="white")
        axes = figure.add_axes((0, 0, 1, 1), xlim=(0, size[0]), ylim=(size[1], 0))  # In inches; one for all images.
        axes.set_axis_off()

        def write(left, top, text, **options):
            figure.text(left / size[0], 1 - top / size[1], text, va="baseline", **options)

        for number, text in enumerate(texts):
            write(MARGIN, 0.24 + number * LINE, text, fontsize=9, weight="bold")
        write(MARGIN, 0.26 + len(texts) * LINE, "training examples of "
              f"{keep_end(printable(source.name), 70)}, {height}x{width}x{channels}; seed {seed}", color=FAINT)
        for column in range(len(sheet[0])):
            write(MARGIN + column * pitch[0], head - 0.06, f"epoch {column}" if column else "original")
        for number, row in enumerate(sheet):
            for column, drawn in enumerate(row):
                left, top = MARGIN + column * pitch[0], head + number * pitch[1]
                _show(axes, drawn.image, (left, top, CELL, tall))
                for line, text in enumerate(drawn.caption):
                    text = printable(text)
                    write(left, top + tall + (line + 0.85) * LINE, color=FAINT,
                          text=text if len(text) <= LONGEST else text[:LONGEST - 1] + "…")
        try:
            figure.savefig(path, dpi=150)
        except OSError as error:
            raise UsageError(f"cannot write '{path}': {error.strerror}") from error
    return len(sheet)


def _names(augmentations, height):
    """Returns each augmentation as --augment takes it, with its strength."""
    for augmentation in augmentations:
        row = AUGMENTATIONS.find(augmentation.name).row
        strength = row.default_for(height) if augmentation.strength is None else augmentation.strength
        yield f"{augmentation.name}:{strength:g} ({row.unit})"


def _show(axes, image, box):
    """Draws an image of any number of channels into (left, top, width, height) of the axes, as large as it fits.

    Of channels, see pipeline.monitoring.tensorboard.canvas.visible.
    """
    pixels = image[..., :3] if image.shape[-1] >= 3 else image[..., 0]
    scale = min(box[2] / pixels.shape[1], box[3] / pixels.shape[0])
    width, height = pixels.shape[1] * scale, pixels.shape[0] * scale
    left, top = box[0] + (box[2] - width) / 2, box[1] + (box[3] - height) / 2
    axes.imshow(pixels, cmap="gray", vmin=0, vmax=255, extent=(left, left + width, top + height, top), aspect="auto",
                interpolation="nearest" if max(pixels.shape[:2]) <= SMALL else "antialiased")
