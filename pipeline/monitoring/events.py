"""TensorBoard event files with one global step axis that survives a kill: every step stands there once."""
import glob
import itertools
import os
import socket
import time

import numpy as np
from google.protobuf.message import DecodeError
from tensorboard.compat.proto.event_pb2 import Event
from tensorboard.compat.proto.summary_pb2 import Summary
from tensorboard.plugins.histogram import metadata as histograms
from tensorboard.plugins.image import metadata as images
from tensorboard.plugins.text import metadata as texts
from tensorboard.util.tensor_util import make_tensor_proto

from pipeline import files
from pipeline.monitoring.framing import CHECKSUM, HEADER, frames, length_of
from pipeline.monitoring.record_file import RecordFile
from pipeline.monitoring.scalar_events import scalar_events

GRAPH = "graph"  # As what `latest` knows the graph, which has no tag of its own.
BUCKETS = 30  # Of a histogram, as many as TensorBoard's own writer makes.
_NUMBER = itertools.count()


class EventWriter:
    """Writes one TensorBoard run: scalars, an event a step, and tensors of TensorBoard's plugins.

    The records are written directly (tf.summary costs an operation a value), in the format that TensorBoard reads.
    """

    def __init__(self, directory):
        self.directory = directory
        self._file, self._latest = None, {}

    @property
    def problem(self):
        """The OSError of a full disk while events wait in memory for room, else None."""
        return self._file.problem if self._file else None

    def cut_after(self, step):
        """Cuts the files that are there before the first event of a later step and before a torn record."""
        self._latest = {}
        for path in event_files(self.directory):
            end = 0
            for event, event_end in read_events(path):
                if event.step > step:
                    break
                self._note(event)
                end = event_end
            if self._file and path == self._file.path:
                self._file.cut(end, step)
            elif end < os.path.getsize(path):
                os.truncate(path, end)
                files.sync(path)
        if self._file and not os.path.exists(self._file.path):
            self._file.cut(0, step)
        # A TensorBoard that looks on loses its place in a file that shrinks and grows; a new file it finds.
        if self._file and self._file.flush(sync=True):
            self.close()

    def latest(self, tag):
        """Returns (step, Summary.Value) of the newest tensor of a tag in the files that `cut_after` has seen or since.

        The graph is known by the tag GRAPH, and has no value. None where there is none.
        """
        return self._latest.get(tag)

    def _note(self, event):
        """Remembers what an event holds beside scalars."""
        if event.graph_def:
            self._latest[GRAPH] = event.step, None
        elif event.summary.value and event.summary.value[0].HasField("metadata"):
            self._latest.update((value.tag, (event.step, value)) for value in event.summary.value)

    def _append(self, *events):
        """Takes events, each a pair of its step and its bytes."""
        if self._file is None:
            self._open()
        for (step, _), record in zip(events, frames([data for _, data in events]), strict=True):
            self._file.append(step, record)

    def _open(self):
        # TensorBoard reads files in the order of their names, which start with the time.
        name = f"events.out.tfevents.{time.time():.0f}.{socket.gethostname()}.{os.getpid()}.{next(_NUMBER):04d}"
        self._file = RecordFile(os.path.join(self.directory, name))
        self._append((0, Event(wall_time=time.time(), file_version="brain.Event:2").SerializeToString()))

    def scalars(self, step, wall_time, values):
        """Takes {tag: float} at a global step; wall_time in seconds since the epoch. `flush` writes it."""
        columns = {tag: np.array([value]) for tag, value in values.items()}
        self.events([step], scalar_events(np.array([step]), np.array([wall_time]), columns))

    def events(self, steps, events):
        """Takes serialized Events of global steps; see scalar_events."""
        self._append(*zip(steps, events, strict=True))

    def tensors(self, step, wall_time, values):
        """Takes Summary.Values that carry a plugin's metadata, each an event of its own, as TensorBoard writes them."""
        for value in values:
            event = Event(wall_time=wall_time, step=step, summary=Summary(value=[value]))
            self._note(event)
            self._append((step, event.SerializeToString()))

    def graph(self, step, wall_time, graph_def):
        """Takes the run's graph: a serialized GraphDef, bytes."""
        event = Event(wall_time=wall_time, step=step, graph_def=graph_def)
        self._note(event)
        self._append((step, event.SerializeToString()))

    def flush(self, sync=False):
        """Writes what waits, and with `sync` makes it durable; returns False where the disk is full."""
        return self._file is None or self._file.flush(sync)

    def close(self):
        """Closes the file."""
        if self._file is not None:
            self._file.flush()
            self._file.close()
            self._file = None


def image_value(tag: str, png: bytes, size: tuple[int, int], description: str = ""):
    """Returns the Summary.Value of a picture: its PNG file, bytes, and its (width, height) in pixels."""
    tensor = make_tensor_proto(np.array([*(str(side).encode() for side in size), png], object))
    return Summary.Value(tag=tag, tensor=tensor, metadata=images.create_summary_metadata("", description))


def text_value(tag, markdown, description=""):
    """Returns the Summary.Value of a text in Markdown."""
    tensor = make_tensor_proto(np.array(markdown.encode(), object))
    return Summary.Value(tag=tag, tensor=tensor, metadata=texts.create_summary_metadata("", description))


def histogram_value(tag, values):
    """Returns the Summary.Value of a histogram of BUCKETS buckets of equal width.

    Args:
      tag: its tag.
      values: array of any shape with at least one finite value; others are left out.
    """
    values = np.asarray(values, np.float64).ravel()
    values = values[np.isfinite(values)]
    low, high = values.min(), values.max()
    if (high - low) / BUCKETS > np.spacing(max(abs(low), abs(high))):
        counts, edges = np.histogram(values, BUCKETS, (low, high))
        buckets = np.stack([edges[:-1], edges[1:], counts], axis=1)
    else:  # As TensorBoard's own writer does where all values are the same: buckets without width, the last one full.
        buckets = np.full([BUCKETS, 3], low)
        buckets[:, 2] = [*[0] * (BUCKETS - 1), values.size]
    return Summary.Value(tag=tag, tensor=make_tensor_proto(buckets, dtype=np.float64),
                         metadata=histograms.create_summary_metadata("", ""))


def event_files(directory):
    """Returns the event files of a run in the order in which TensorBoard reads them."""
    return sorted(glob.glob(os.path.join(glob.escape(directory), "events.out.tfevents.*")))


def read_events(path):
    """Yields (event, offset in bytes at which its record ends) for the records of a file, up to the first torn one."""
    size = os.path.getsize(path)
    with open(path, "rb") as file:
        while (length := length_of(file.read(HEADER))) is not None:
            end = file.tell() + length + CHECKSUM
            if end > size:
                return
            try:
                event = Event.FromString(file.read(length))
            except DecodeError:
                return
            yield event, end
            file.seek(end)
