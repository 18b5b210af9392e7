"""The two ways a command ends badly, each one line for the person who typed it."""
import difflib


class UsageError(Exception):
    """Wrong use or bad input: exit code 2. The message says what was wrong, what was found and what would work."""


class RunFailure(Exception):
    """A run that could not go on although it was asked for rightly: exit code 1."""


def nearest(name, known):
    """Returns the known name most like `name`, or None where nothing is alike."""
    matches = difflib.get_close_matches(str(name), [str(k) for k in known], n=1, cutoff=0.5)
    return matches[0] if matches else None


def unknown_name(kind, name, known, hint=""):
    """Returns a UsageError for a name that is not in a table, naming the nearest one that is.

    Args:
      kind: what the name stands for, in the words of the user ("model", "data set").
      name: what was found.
      known: every name that would work.
      hint: an extra clause for the end of the line.
    """
    guess = nearest(name, known)
    suggestion = f"did you mean '{guess}'? " if guess else ""
    return UsageError(f"unknown {kind} '{name}': {suggestion}known: {', '.join(sorted(known))}{hint}")
