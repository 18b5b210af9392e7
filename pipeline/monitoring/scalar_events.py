"""Serialized Events of many steps at once: steps with the same tags differ in a few bytes, which NumPy fills in.

The bytes are those of Event.SerializeToString; a message object for each step takes five times as long.
"""
import itertools
from collections.abc import Mapping

import numpy as np
from tensorboard.compat.proto.event_pb2 import Event
from tensorboard.compat.proto.summary_pb2 import Summary

_WALL_TIME, _STEP, _SUMMARY, _VALUE, _TAG, _NUMBER = b"\x09", b"\x10", b"\x2a", b"\x0a", b"\x0a", b"\x15"
_DOUBLE, _FLOAT = 8, 4  # Bytes of a wall time, of a scalar.
_LONGER = 1 << 7 * np.arange(1, 9)  # The numbers from which on a varint takes one more byte.


def scalar_events(steps: np.ndarray, wall_times: np.ndarray, columns: Mapping[str, np.ndarray]) -> list[bytes]:
    """Returns the serialized Events of steps that have the same tags.

    Args:
      steps: [n] int64 array, ascending, each at least 0.
      wall_times: [n] float64 array, seconds since the epoch.
      columns: {tag: [n] float array}.

    Returns:
      One for each step.
    """
    ends = [*(np.flatnonzero(np.diff(_widths(steps))) + 1).tolist(), len(steps)]
    return [record for begin, end in itertools.pairwise([0, *ends]) for record in _of_equal_width(
        steps[begin:end], wall_times[begin:end], {tag: values[begin:end] for tag, values in columns.items()})]


def _widths(numbers: np.ndarray) -> np.ndarray:
    """Returns the bytes of each of [n] numbers as a varint, [n]."""
    return np.searchsorted(_LONGER, numbers, side="right") + 1


def varint(number: int) -> bytes:
    """Returns a number of at least 0 in the variable-length encoding of protocol buffers, 7 bits a byte."""
    parts = [number & 127]
    while number := number >> 7:
        parts.append(number & 127)
    return bytes([*(part | 128 for part in parts[:-1]), parts[-1]])


def _of_equal_width(steps: np.ndarray, wall_times: np.ndarray, columns: Mapping[str, np.ndarray]) -> list[bytes]:
    """Returns scalar_events of steps whose varints have the same width."""
    if steps[0] == 0 or not wall_times.all():  # A message leaves zeros out.
        return [Event(step=step, wall_time=when, summary=Summary(value=[
            Summary.Value(tag=tag, simple_value=values[i]) for tag, values in columns.items()])).SerializeToString()
            for i, (step, when) in enumerate(zip(steps.tolist(), wall_times.tolist(), strict=True))]
    width = int(_widths(steps[0]))
    body, places = b"", []
    for tag in columns:
        name = tag.encode()
        value = _TAG + varint(len(name)) + name + _NUMBER + bytes(_FLOAT)
        body += _VALUE + varint(len(value)) + value
        places.append(len(body) - _FLOAT)
    head = _WALL_TIME + bytes(_DOUBLE) + _STEP + bytes(width) + _SUMMARY + varint(len(body))
    table = np.tile(np.frombuffer(head + body, np.uint8), (len(steps), 1))
    table[:, 1:1 + _DOUBLE] = _bytes(wall_times, "<f8")
    bits = 7 * np.arange(width)
    table[:, 2 + _DOUBLE:2 + _DOUBLE + width] = (steps[:, None] >> bits & 127) | np.where(bits < bits[-1], 128, 0)
    for place, values in zip(places, columns.values(), strict=True):
        table[:, len(head) + place:len(head) + place + _FLOAT] = _bytes(values, "<f4")
    whole, size = table.tobytes(), table.shape[1]
    return [whole[i:i + size] for i in range(0, len(whole), size)]


def _bytes(values: np.ndarray, dtype: str) -> np.ndarray:
    """Returns [n] numbers as [n, size of dtype] uint8."""
    with np.errstate(over="ignore"):
        return np.ascontiguousarray(values, dtype).view(np.uint8).reshape(len(values), -1)
