"""Which of a data set's own splits train, select the checkpoint and give the final figures. Standard library only."""
from pipeline.errors import UsageError

DATA_SET, TRAINING = "data set", "training"  # Where a validation split is from.
VALIDATION_NAMES = ("validation", "valid", "val")


def choose_splits(what, names, own_validation=True, earlier=("test", *VALIDATION_NAMES)):
    """Chooses the test and the validation split by their names, in any case.

    Args:
      what: the data set in the words of the user, for the message.
      names: of the splits that are there.
      own_validation: whether a validation split of the data set's own is one. False for runs begun before it was, or
        without it: a validation split then stands in for a missing test split.
      earlier: without own_validation, the names that may be the test split, the first one found.

    Returns:
      ({"validation": its own name, "test": its own name}, those that are there; the name of a validation split that is
      not used as one, or None).

    Raises:
      UsageError: two splits that are the same by name.
    """
    found = {}
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


def unused_validation(name, is_test):
    """Returns the line about a validation split that a run begun without one does not use, [] without.

    Args:
      name: its own name, or None.
      is_test: whether it stands in for the test split.
    """
    if not name:
        return []
    place = "is the test split of this run" if is_test else "is not used"
    return [f"'{name}' {place}, which was begun without a validation split; a new run selects its checkpoint by it"]


def own_validation(stored):
    """Tells whether a run is to use a validation split of the data set's own: a new one is, one that goes on as begun.

    Args:
      stored: what config.json of the run holds, None for a new run.
    """
    return not stored or stored["data"].get("validation_from") == DATA_SET
