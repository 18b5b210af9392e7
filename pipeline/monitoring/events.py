"""TensorBoard event files on one global step axis: after a kill and a restart every step is in them exactly once."""
import glob
import itertools
import os
import socket
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence

import numpy as np
from google.protobuf.message import DecodeError
from tensorboard.compat.proto.event_pb2 import Event
from tensorboard.compat.proto.summary_pb2 import Summary

from pipeline import files
from pipeline.monitoring.framing import frames, read_frames
from pipeline.monitoring.record_file import RecordFile
from pipeline.monitoring.scalar_events import scalar_events

GRAPH = "graph"  # The key of the graph in `latest`; it has no tag of its own.
_NUMBER = itertools.count()


class EventWriter:
    """Writes one TensorBoard run: scalars, one event a step, and tensors of TensorBoard's plugins.

    Records are serialized here, since tf.summary runs an operation per value.
    """

    def __init__(self, directory: str):
        self.directory = directory
        self._file: RecordFile | None = None
        self._latest: dict[str, tuple[int, Summary.Value | None]] = {}

    @property
    def problem(self) -> OSError | None:
        """The error of a full disk while events wait in memory, else None."""
        return self._file.problem if self._file else None

    def cut_after(self, step: float) -> None:
        """Cuts the existing files before the first event of a later step and before a torn record."""
        self._latest = {}
        for path in event_files(self.directory):
            end = 0
            for event, event_end in read_events(path):
                if event.step > step:
                    break
                self._remember(event)
                end = event_end
            if self._file and path == self._file.path:
                self._file.cut(end, step)
            elif end < os.path.getsize(path):
                os.truncate(path, end)
                files.sync(path)
        if self._file and not os.path.exists(self._file.path):
            self._file.cut(0, step)
        # A running TensorBoard loses its place in a file that shrinks and grows again; it finds a new file.
        if self._file and self._file.flush(sync=True):
            self.close()

    def latest(self, tag: str) -> tuple[int, Summary.Value | None] | None:
        """Returns (step, Summary.Value) of the latest tensor of a tag, None without one.

        Known are the files that `cut_after` has read and what was written since. The graph has the tag GRAPH and no
        value.
        """
        return self._latest.get(tag)

    def _remember(self, event: Event) -> None:
        """Keeps what an event contains other than scalars."""
        if event.graph_def:
            self._latest[GRAPH] = event.step, None
        elif event.summary.value and event.summary.value[0].HasField("metadata"):
            self._latest.update((value.tag, (event.step, value)) for value in event.summary.value)

    def events(self, steps: Sequence[int], events: Sequence[bytes]) -> None:
        """Adds serialized Events of global steps; see scalar_events."""
        if not len(events):
            return
        if self._file is None:
            # TensorBoard reads files in the order of their names, which begin with the time.
            name = f"events.out.tfevents.{time.time():.0f}.{socket.gethostname()}.{os.getpid()}.{next(_NUMBER):04d}"
            self._file = RecordFile(os.path.join(self.directory, name))
            version = Event(wall_time=time.time(), file_version="brain.Event:2").SerializeToString()
            steps, events = [0, *steps], [version, *events]
        for step, record in zip(steps, frames(events), strict=True):
            self._file.append(step, record)

    def scalars(self, step: int, wall_time: float, values: Mapping[str, float]) -> None:
        """Adds {tag: value} of a global step; wall_time in seconds since the epoch. `flush` writes it."""
        columns = {tag: np.array([value]) for tag, value in values.items()}
        self.events([step], scalar_events(np.array([step]), np.array([wall_time]), columns))

    def tensors(self, step: int, wall_time: float, values: Iterable[Summary.Value]) -> None:
        """Adds values that carry a plugin's metadata, each an event of its own, as TensorBoard writes them."""
        self._add(*(Event(wall_time=wall_time, step=step, summary=Summary(value=[value])) for value in values))

    def graph(self, step: int, wall_time: float, graph_def: bytes) -> None:
        """Adds the run's graph, a serialized GraphDef."""
        self._add(Event(wall_time=wall_time, step=step, graph_def=graph_def))

    def _add(self, *events: Event) -> None:
        for event in events:
            self._remember(event)
        self.events([event.step for event in events], [event.SerializeToString() for event in events])

    def flush(self, sync: bool = False) -> bool:
        """Writes what waits, and with `sync` makes it durable; returns False on a full disk."""
        return self._file is None or self._file.flush(sync)

    def close(self) -> None:
        """Closes the file."""
        if self._file is not None:
            self._file.flush()
            self._file.close()
            self._file = None


def event_files(directory: str) -> list[str]:
    """Returns the event files of a run in the order in which TensorBoard reads them."""
    return sorted(glob.glob(os.path.join(glob.escape(directory), "events.out.tfevents.*")))


def read_events(path: str) -> Iterator[tuple[Event, int]]:
    """Yields (event, offset in bytes at which its record ends) for the records of a file, up to the first torn one."""
    for data, end in read_frames(path):
        try:
            event = Event.FromString(data)
        except DecodeError:
            return
        yield event, end
