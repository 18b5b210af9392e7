"""The two kinds of errors that a command reports in one line."""
import difflib
from collections.abc import Iterable


class UsageError(Exception):
    """Wrong use or bad input: exit code 2. The message names what was wrong, what was found and what would work."""


class RunFailure(Exception):
    """A correctly requested run that could not continue: exit code 1."""


# Names of others for values of ours that are spelled differently; of several, the first that is known.
OTHER_VALUES = {
    "bf16": ("mixed_bfloat16",), "bfloat16": ("mixed_bfloat16",), "fp16": ("mixed_float16",),
    "half": ("mixed_float16",), "float16": ("mixed_float16",), "amp": ("mixed_float16",), "fp32": ("float32",),
    "single": ("float32",), "fp64": ("float64",), "double": ("float64",), "last": ("latest",),
    "momentum": ("sgd",), "multistep": ("step",), "piecewise": ("step",), "none": ("constant", "off"),
    "fixed": ("constant",), "acc": ("accuracy",), "pb": ("saved_model",), "h5": ("keras",), "lite": ("tflite",),
    "dev": ("validation",), "silent": ("quiet",), "verbose": ("debug",), "gpu": ("device",), "cpu": ("host",),
    "true": ("on",), "false": ("off",), "jitter": ("color",), "translate": ("crop",), "erase": ("cutout",),
    "dense": ("mlp",), "lenet": ("cnn",)}


def nearest(name: str, known: Iterable[str]) -> str | None:
    """Returns the known name most like `name`, or None.

    In this order: the same but for case, `-` and `_`; another's name for it (OTHER_VALUES); one that begins with it;
    one spelled similarly.
    """
    names, plain = {_plain(k): str(k) for k in known}, _plain(name)
    other = next((value for value in OTHER_VALUES.get(plain, ()) if value in names.values()), None)
    begins = [k for k in names if len(plain) > 2 and k.startswith(plain)]
    matches = [plain] if plain in names else [_plain(other)] if other else (
        sorted(begins, key=len) or difflib.get_close_matches(plain, names, n=1, cutoff=0.5))
    return names[matches[0]] if matches else None


def _plain(name: str) -> str:
    return str(name).strip().lower().replace("-", "").replace("_", "")


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """Returns ": did you mean 'X'?" for the known name most like `name`, "" without one."""
    guess = nearest(name, known)
    return f": did you mean '{guess}'?" if guess else ""


def unknown_name(kind: str, name: str, known: Iterable[str], hint: str = "") -> UsageError:
    """Returns a UsageError for a name that is not in a table, with the nearest one that is.

    Args:
      kind: what the name stands for ("model", "data set").
      name: what was given.
      known: every valid name.
      hint: appended to the message.
    """
    known = sorted(known)
    guess = nearest(name, known)
    suggestion = f"did you mean '{guess}'? " if guess else ""
    return UsageError(f"unknown {kind} '{name}': {suggestion}known: {', '.join(known)}{hint}")
