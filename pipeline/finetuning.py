"""Options of fine-tuning that have a syntax of their own. Standard library only."""
import dataclasses
import math
import re
from collections.abc import Sequence

from pipeline.errors import UsageError
from pipeline.options import Interval


@dataclasses.dataclass(frozen=True)
class UnfreezePoint:
    """A point of --unfreeze_at: the patterns of what trains from then on."""

    patterns: tuple[str, ...]
    interval: Interval

    @classmethod
    def parse(cls, texts: Sequence[str]) -> list["UnfreezePoint"]:
        """Reads ("2epochs",), all from then on, or ("block2", "block3@1epoch", "all@300"): block2 and block3, then all.

        Raises:
          UsageError: a name without a time, a time of 0, or another form.
        """
        points: list[UnfreezePoint] = []
        waiting: list[str] = []
        for text in texts:
            pattern, at, when = text.strip().rpartition("@")
            if not at and (waiting or not re.match(r"\d", when)):
                waiting.append(when)
                continue
            interval = Interval.parse("unfreeze_at", when)
            if not interval.amount or (at and not pattern):
                raise UsageError(f"--unfreeze_at: '{text}' needs names before @ and a time of more than 0 after it, "
                                 "e.g. block3@1epoch; --freeze says what is frozen from the start")
            points.append(cls((*waiting, pattern or "all"), interval))
            waiting = []
        if waiting:
            raise UsageError(f"--unfreeze_at: '{waiting[-1]}' has no time; give {waiting[-1]}@1epoch or "
                             f"{waiting[-1]}@100 (steps)")
        return points


def parse_multipliers(texts: Sequence[str]) -> list[tuple[str, float]]:
    """Reads --lr_multipliers, ("backbone=0.1", "stem=0"), as [(pattern, factor)].

    Raises:
      UsageError: another form, or a factor that is negative or not finite.
    """
    found = []
    for text in texts:
        pattern, _, value = text.strip().rpartition("=")
        try:
            factor = float(value)
        except ValueError:
            factor = -1.0
        if not pattern or not 0 <= factor < math.inf:
            raise UsageError(f"--lr_multipliers must be PATTERN=FACTOR with a factor of 0 or more, e.g. backbone=0.1; "
                             f"found '{text}'")
        found.append((pattern, factor))
    return found


def check_finetuning(freeze: Sequence[str], unfreeze_at: Sequence[str], rewarmup: str, frozen_batch_norm: str,
                     lr_multipliers: Sequence[str]) -> None:
    """Checks the options of these names together.

    Raises:
      UsageError: a syntax error, or an option without the one to which it belongs.
    """
    points, multipliers = UnfreezePoint.parse(unfreeze_at), parse_multipliers(lr_multipliers)
    if points and not freeze:
        raise UsageError(f"--unfreeze_at={','.join(unfreeze_at)} needs --freeze, which says what is frozen until then, "
                         "e.g. --freeze=backbone")
    if Interval.parse("rewarmup", rewarmup).amount and not points:
        raise UsageError(f"--rewarmup={rewarmup} follows the points of --unfreeze_at, and there are none: give them, "
                         "or --warmup for the start of the run")
    if frozen_batch_norm == "train" and not freeze and all(factor for _, factor in multipliers):
        raise UsageError("--frozen_batch_norm=train belongs to --freeze, and nothing is frozen")
