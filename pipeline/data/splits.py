"""The roles of a data set's own splits: training, selecting the checkpoint, final evaluation. Standard library only."""
from collections.abc import Collection, Mapping, Sequence
from typing import Any

from pipeline.errors import UsageError

DATA_SET, TRAINING = "data set", "training"  # Origins of a validation split.
VALIDATION_NAMES = ("validation", "valid", "val")


def choose_splits(what: str, names: Collection[str], own_validation: bool = True,
                  earlier: Sequence[str] = ("test", *VALIDATION_NAMES)) -> tuple[dict[str, str], str | None]:
    """Chooses the test and the validation split by their names, in any case.

    Args:
      what: the data set in messages.
      names: of its splits.
      own_validation: whether to use its own validation split. False for runs begun without it: a validation split then
        replaces a missing test split.
      earlier: without own_validation, the names that may be the test split; the first one found is.

    Returns:
      ({"validation": its own name, "test": its own name}, where they exist; the name of an unused validation split, or
      None).

    Raises:
      UsageError: two splits of the same role.
    """
    found: dict[str, str] = {}
    for role, known in (("validation", VALIDATION_NAMES), ("test", ("test",))):
        matches = sorted(name for name in names if name.lower() in known)
        if own_validation and len(matches) > 1:
            raise UsageError(f"{what} has several {role} splits, {' and '.join(matches)}: keep one of them")
        if matches:
            found[role] = matches[0]
    if own_validation:
        return found, None
    test = next((name for name in earlier if name in names), None)
    return {"test": test} if test else {}, found.get("validation")


def unused_validation(name: str | None, is_test: bool) -> list[str]:
    """Returns the line about a validation split that a run begun without one does not use; [] without.

    Args:
      name: its own name, or None.
      is_test: whether it replaces the test split.
    """
    if not name:
        return []
    place = "is the test split of this run" if is_test else "is not used"
    return [f"'{name}' {place}, which was begun without a validation split; a new run selects its checkpoint by it"]


def own_validation(stored: Mapping[str, Any] | None) -> bool:
    """Returns whether a run uses a validation split of the data set's own: a new run does, others continue as begun.

    Args:
      stored: content of config.json; None for a new run.
    """
    return not stored or stored["data"].get("validation_from") == DATA_SET
