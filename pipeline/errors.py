"""The two ways a command ends badly, each one line for the person who typed it."""
import difflib


class UsageError(Exception):
    """Wrong use or bad input: exit code 2. The message says what was wrong, what was found and what would work."""


class RunFailure(Exception):
    """A run that could not go on although it was asked for rightly: exit code 1."""


# What others call values of ours whose spelling does not lead there; several names of ours: the first that is known.
OTHER_VALUES = {
    "bf16": ("mixed_bfloat16",), "bfloat16": ("mixed_bfloat16",), "fp16": ("mixed_float16",),
    "half": ("mixed_float16",), "float16": ("mixed_float16",), "amp": ("mixed_float16",), "fp32": ("float32",),
    "single": ("float32",), "fp64": ("float64",), "double": ("float64",), "latest": ("newest",), "last": ("newest",),
    "momentum": ("sgd",), "multistep": ("step",), "piecewise": ("step",), "none": ("constant", "off"),
    "fixed": ("constant",), "acc": ("accuracy",), "pb": ("saved_model",), "h5": ("keras",), "lite": ("tflite",),
    "dev": ("validation",), "silent": ("quiet",), "verbose": ("debug",), "gpu": ("device",), "cpu": ("host",),
    "true": ("on",), "false": ("off",), "jitter": ("color",), "translate": ("crop",), "erase": ("cutout",),
    "dense": ("mlp",), "lenet": ("cnn",)}


def nearest(name, known):
    """Returns the known name most like `name`, or None where nothing is alike.

    The same but for case, `-` and `_`; what others call it (OTHER_VALUES); one that begins with it; one spelled alike.
    """
    known, plain = {_plain(k): str(k) for k in known}, _plain(name)
    other = next((value for value in OTHER_VALUES.get(plain, ()) if value in known.values()), None)
    begins = [k for k in known if len(plain) > 2 and k.startswith(plain)]
    matches = [plain] if plain in known else [_plain(other)] if other else (
        sorted(begins, key=len) or difflib.get_close_matches(plain, known, n=1, cutoff=0.5))
    return known[matches[0]] if matches else None


def _plain(name):
    return str(name).strip().lower().replace("-", "").replace("_", "")


def did_you_mean(name, known):
    """Returns ": did you mean 'X'?" for the known name most like `name`, "" where nothing is alike."""
    guess = nearest(name, known)
    return f": did you mean '{guess}'?" if guess else ""


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
