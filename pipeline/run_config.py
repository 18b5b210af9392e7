"""Validates config.json of a run, which may have been edited. Standard library only."""
import json
from collections.abc import Mapping
from typing import Any

from pipeline.config import ExperimentConfig, options, value_type
from pipeline.errors import UsageError

_WORDS = {str: "text", int: "a whole number", float: "a number", bool: "true or false", list: "a list",
          dict: "a JSON object"}
_ALWAYS = ("dataset", "model", "precision", "batch_size")  # Options that are read by name.
# The facts of the data that every run has.
_DATA = {"name": str, "fingerprint": str, "class_names": list, "image_shape": list, "num_train": int,
         "num_validation": int, "num_test": int}
# Optional entries; null is the same as a missing one.
_PARTS = {"extensions": list, "plan": dict, "initialization": dict, "frozen": dict, "preprocessing": dict,
          "normalization": dict, "num_replicas": int, "device": dict, "versions": dict}
_PER_CHANNEL = ("mean", "deviation")


def check_stored(stored: Mapping[str, Any], path: str) -> None:
    """Raises UsageError if an entry of config.json is missing or of a wrong type; names it.

    Args:
      stored: the JSON object, with "config" and "data".
      path: of the file.
    """
    problem = next(_problems(stored), None)
    if problem:
        raise UsageError(f"{path} cannot be read: {problem}; correct it, or restore it from a copy")


def check_values(values: Mapping[str, Any], path: str) -> None:
    """Raises UsageError if an option in config.json has an invalid value.

    Args:
      values: {option name: value} of the file, of known options.
      path: of the file.
    """
    try:
        ExperimentConfig.from_flat(values)
    except UsageError as error:
        raise UsageError(f"{path} has an invalid value: {error}") from None


def _problems(stored):
    """Yields the problems as text; each check relies on those before it."""
    for part in ("config", "data"):
        if not isinstance(stored[part], dict):
            yield f"'{part}' is no JSON object"
            return
    for name, value in stored["config"].items():
        if name in options():
            yield from _of_option(name, value)
    for name in _ALWAYS:
        if name not in stored["config"]:
            yield f"it has no 'config.{name}'"
    for name, kind in _DATA.items():
        if name not in stored["data"]:
            yield f"it has no 'data.{name}'"
        yield from _of_type(f"data.{name}", stored["data"].get(name), kind)
    for name, kind in _PARTS.items():
        if stored.get(name) is not None:
            yield from _of_type(name, stored[name], kind)
    yield from _of_data(stored["data"])
    yield from _of_parts(stored)


def _of_type(name, value, kind):
    if not _is(value, kind):
        yield f"{name} is {json.dumps(value)}, and has to be {_WORDS[kind]}"


def _is(value, kind):
    return isinstance(value, (int, float) if kind is float else kind) and (kind is bool or not isinstance(value, bool))


def _of_option(name, value):
    field = options()[name]
    if value is None:
        if field.default is not None:
            yield f"{name} is null, and has to have a value"
        return
    kind = list if value_type(field) is tuple else value_type(field)
    yield from _of_type(name, value, kind)
    for one in value if kind is list else ():
        if not _is(one, str) and not _is(one, float):
            yield f"{name} holds {json.dumps(one)}, and has to hold text"


def _of_data(data):
    names, shape = data["class_names"], data["image_shape"]
    if not names or not all(_is(name, str) for name in names):
        yield "data.class_names is no list of names"
    if len(shape) != 3 or not all(_is(size, int) and size > 0 for size in shape):
        yield f"data.image_shape is {json.dumps(shape)}, and has to be height, width and channels"


def _of_parts(stored):
    normalization, channels = stored.get("normalization"), stored["data"]["image_shape"][-1]
    if stored["config"].get("normalize", "none") != "none" and not normalization:
        yield f"it has no 'normalization', and normalize is {stored['config']['normalize']}"
    for name in _PER_CHANNEL if normalization else ():
        values = normalization.get(name)
        if not _is(values, list) or len(values) != channels or not all(_is(value, float) for value in values):
            yield f"normalization.{name} is {json.dumps(values)}, and has to be a number a channel"
    for record in stored.get("extensions") or ():
        if not _is(record, dict) or not _is(record.get("files"), dict) or not all(
                _is(record.get(name), str) for name in ("name", "kind")):
            yield f"extensions holds {json.dumps(record)}, and has to hold objects with name, kind and files"
    for name, kind in (("threads", int), ("cores", int), ("kind", str)):
        if (stored.get("device") or {}).get(name) is not None:
            yield from _of_type(f"device.{name}", stored["device"][name], kind)
