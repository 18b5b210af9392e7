"""What --augment takes: augmentations by name, each with a strength. Standard library only."""
import dataclasses
import math
from collections.abc import Sequence
from typing import Any

from pipeline.choices import AUGMENTATIONS
from pipeline.errors import UsageError


@dataclasses.dataclass(frozen=True)
class Augmentation:
    """One augmentation by name with its strength; None for its default."""

    name: str
    strength: float | None

    @classmethod
    def parse(cls, text: str) -> "Augmentation":
        """Reads `flip` or `crop:3`; the name is looked up where it is used, since an extension may add it.

        Raises:
          UsageError: a strength that is not a number.
        """
        name, _, strength = text.partition(":")
        try:
            value = float(strength) if strength else None
        except ValueError:
            value = math.nan
        if value is not None and not 0 < value < 1e6:
            raise _wrong_strength(text)
        return cls(name, value)

    @property
    def mixes(self) -> bool:
        """Whether it mixes pairs of images; False for an unknown name."""
        return self.name in AUGMENTATIONS and AUGMENTATIONS[self.name].row.mixes


def augmentations(config: Any) -> tuple[Augmentation, ...]:
    """Returns the augmentations of a DataConfig, in order."""
    return tuple(Augmentation.parse(text) for text in config.augment)


def smallest_part(config: Any) -> int:
    """Returns by which number of examples each part of a batch divides: 2 where a DataConfig mixes pairs, else 1."""
    return 2 if any(a.mixes for a in augmentations(config)) else 1


def check_place(config: Any) -> None:
    """Raises UsageError where a DataConfig of a new run wants images augmented where they are not."""
    if (config.cache, config.augment_on) == ("device", "host"):
        raise UsageError("--augment_on=host contradicts --cache=device, with which images never come to the host: "
                         "leave it out, or give --cache=host")


def check_strengths(texts: Sequence[str], shape: Sequence[int] | None = None, begun_with: Sequence[str] = ()) -> None:
    """Checks names and strengths of augmentations.

    Not part of `Augmentation.parse`, since a run started with a strength that is refused now must remain readable.

    Args:
      texts: as --augment has them.
      shape: (height, width, ...) of the images; None before data and extensions are loaded: unknown names then pass.
      begun_with: augmentations of the run that continues: these are accepted.

    Raises:
      UsageError: an unknown name, or a strength outside its range or too large for the images.
    """
    for text in texts:
        augmentation, found = Augmentation.parse(text), 0
        if shape is None and augmentation.name not in AUGMENTATIONS:
            continue
        row = AUGMENTATIONS.find(augmentation.name).row
        if augmentation.strength is None or text in begun_with:
            continue
        if row.most_part and shape:
            found = max(1, int(row.most_part * min(shape[:2])))
        if not row.accepts(augmentation.strength) or (found and augmentation.strength > found):
            raise _wrong_strength(text, f", {found} for images of {shape[0]}x{shape[1]} pixels" if shape and found
                                  else "")


def _wrong_strength(text, more=""):
    name, _, strength = text.partition(":")
    row = AUGMENTATIONS.find(name).row
    kind = "a whole number" if row.whole else "a number"
    return UsageError(f"--augment={text}: the strength must be {kind} from {row.range}{more} ({row.unit}; default "
                      f"{row.default_text}); found '{strength}'")
