"""A grid of pictures with two lines under each."""
import math

from pipeline.monitoring.tensorboard.canvas import (
    FAINT,
    INK,
    LABEL,
    MARGIN,
    TITLE,
    blank,
    draw,
    fit,
    font,
    scaled,
    visible,
)

SIDE = 112  # Pixels: longest side of a picture.
WIDEST = 168  # Pixels: of a line under it.
GAP = 14
LINE = LABEL + 4


def gallery(pictures, captions, title, columns, note=""):
    """Draws a grid of pictures.

    Args:
      pictures: uint8 [n, H, W, C]; small ones are enlarged, large ones reduced.
      captions: n pairs of lines; a line too long is cut off.
      title: what it shows.
      columns: pictures side by side.
      note: what is said where there are no pictures.

    Returns:
      A PIL image, grey for grey pictures: it takes a third of the time and of the room.
    """
    shown = visible(pictures)
    tiles, channels = [scaled(picture, SIDE) for picture in shown], shown.shape[-1]
    ink, faint = (INK, FAINT) if channels == 3 else (INK[0], FAINT[0])
    columns = max(1, min(columns, len(tiles)))
    lines = max((sum(bool(line) for line in caption) for caption in captions), default=0)
    tile = max((t.shape[0] for t in tiles), default=0)
    captions = [[fit(line, WIDEST) for line in caption] for caption in captions]
    wide = max([SIDE, *(math.ceil(font(LABEL).getlength(line)) for caption in captions for line in caption)])
    cell_width, cell_height = wide + GAP, tile + 4 + lines * LINE + GAP
    rows = -(-len(tiles) // columns)
    top = MARGIN + TITLE + 12
    width = max(2 * MARGIN + columns * cell_width - GAP, 2 * MARGIN + round(font(TITLE).getlength(title)))
    canvas, places = blank(width, top + max(rows * cell_height - GAP, 2 * LINE) + MARGIN, channels), []
    for number, picture in enumerate(tiles):
        x, y = MARGIN + number % columns * cell_width, top + number // columns * cell_height
        left = x + (wide - picture.shape[1]) // 2
        canvas[y:y + picture.shape[0], left:left + picture.shape[1]] = picture
        places.append((x + wide // 2, y + tile + 4))
    image, pen = draw(canvas)
    pen.text((MARGIN, MARGIN), title, ink, font(TITLE))
    if not tiles:
        pen.text((MARGIN, top), note, faint, font(LABEL))
    for (x, y), caption in zip(places, captions, strict=True):
        for line, (text, colour) in enumerate(zip(caption, (ink, faint), strict=True)):
            pen.text((x, y + line * LINE), text, colour, font(LABEL), anchor="ma")
    return image
