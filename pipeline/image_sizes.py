"""What --image_sizes takes: sizes of training images, each from a part of the run on. Standard library only."""
import re
from collections.abc import Sequence

from pipeline.errors import UsageError

MOST_RATIO = 3  # Of the last size to the first: resizing by more would need antialiasing.


def parse_sizes(texts: Sequence[str]) -> list[tuple[int, float]]:
    """Reads --image_sizes, ("160@0", "192@0.6"), as [(pixels, part of the run before it)].

    Raises:
      UsageError: another form, parts that do not begin at 0 or do not ascend, or sizes that do not.
    """
    found: list[tuple[int, float]] = []
    for text in texts:
        match = re.fullmatch(r"([1-9]\d{0,5})@(\d*\.?\d+)", text.strip())
        if not match or not 0 <= float(match[2]) < 1:
            raise _wrong(texts, f"found '{text}'")
        found.append((int(match[1]), float(match[2])))
    if found and found[0][1] != 0:
        raise _wrong(texts, "the first begins at 0")
    for (size, part), (next_size, next_part) in zip(found, found[1:], strict=False):
        if next_size <= size or next_part <= part:
            raise _wrong(texts, f"sizes and parts ascend, and {next_size}@{next_part:g} follows {size}@{part:g}")
    if found and found[-1][0] > MOST_RATIO * found[0][0]:
        raise _wrong(texts, f"the last is at most {MOST_RATIO} times the first")
    return found


def _wrong(texts, what):
    return UsageError(f"--image_sizes={','.join(texts)}: {what}; give sizes in pixels, each from a part of the run on, "
                      "such as 160@0,192@0.6")
