"""The context that a training step gives to the layers while it is traced."""
import contextlib
import dataclasses
import threading
from collections.abc import Iterator

import tensorflow as tf


@dataclasses.dataclass(frozen=True)
class StepContext:
    """The position of one micro-batch in the run, for layers whose result depends on it.

    Attributes:
      seed: seed of the run, in [0, 2**31).
      draw_index: int64 scalar, global_step * micro_batches + micro_batch.
      first_row: int64 scalar, the first of this replica's rows in the global micro-batch.
      statistics_updates: int64 scalar, number of earlier updates of the moving statistics.
      synchronize: whether batch statistics are those of the batch of all replicas, whatever their number. With several
        the step runs in a replica context and is traced inline: a nested tf.function cannot contain a collective.
      num_replicas: number of replicas in sync.
    """

    seed: int
    draw_index: tf.Tensor
    first_row: tf.Tensor
    statistics_updates: tf.Tensor
    synchronize: bool = False
    num_replicas: int = 1


@dataclasses.dataclass
class _Entry:
    context: StepContext
    next_index: int = 0


# MirroredStrategy traces every replica in its own thread, with its own tensors.
_local = threading.local()


def _stack():
    if not hasattr(_local, "stack"):
        _local.stack = []
    return _local.stack


@contextlib.contextmanager
def step_context(context: StepContext) -> Iterator[StepContext]:
    """Makes `context` the current one of this thread; layers are counted from 0."""
    _stack().append(_Entry(context))
    try:
        yield context
    finally:
        _stack().pop()


def current() -> StepContext | None:
    """Returns this thread's StepContext, or None outside of a training step."""
    return _stack()[-1].context if _stack() else None


def next_layer_index() -> int:
    """Returns 0, 1, 2, ... in the order of the calls since the current context was entered.

    Raises:
      RuntimeError: outside of a step context.
    """
    if not _stack():
        raise RuntimeError("next_layer_index() needs a step context")
    entry = _stack()[-1]
    entry.next_index += 1
    return entry.next_index - 1
