"""TensorBoard event files with one global step axis that survives a kill: every step stands there once."""
import glob
import itertools
import os
import socket
import time

from google.protobuf.message import DecodeError
from tensorboard.compat.proto.event_pb2 import Event
from tensorboard.compat.proto.summary_pb2 import Summary

from pipeline import files
from pipeline.monitoring.framing import CHECKSUM, HEADER, frame, length_of
from pipeline.monitoring.record_file import RecordFile

_NUMBER = itertools.count()


class EventWriter:
    """Writes the scalars of one TensorBoard run, an event a step.

    The records are written directly (tf.summary costs an operation a value), in the format that TensorBoard reads.
    """

    def __init__(self, directory):
        self.directory = directory
        self._file = None

    @property
    def problem(self):
        """The OSError of a full disk while events wait in memory for room, else None."""
        return self._file.problem if self._file else None

    def cut_after(self, step):
        """Cuts the files that are there before the first event of a later step and before a torn record."""
        for path in event_files(self.directory):
            end = 0
            for event, event_end in read_events(path):
                if event.step > step:
                    break
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

    def _append(self, event):
        self._file.append(event.step, frame(event.SerializeToString()))

    def _open(self):
        # TensorBoard reads files in the order of their names, which start with the time.
        name = f"events.out.tfevents.{time.time():.0f}.{socket.gethostname()}.{os.getpid()}.{next(_NUMBER):04d}"
        self._file = RecordFile(os.path.join(self.directory, name))
        self._append(Event(wall_time=time.time(), file_version="brain.Event:2"))

    def scalars(self, step, wall_time, values):
        """Takes {tag: float} at a global step; wall_time in seconds since the epoch. `flush` writes it."""
        if self._file is None:
            self._open()
        summary = Summary(value=[Summary.Value(tag=tag, simple_value=value) for tag, value in values.items()])
        self._append(Event(wall_time=wall_time, step=step, summary=summary))

    def flush(self, sync=False):
        """Writes what waits, and with `sync` makes it durable; returns False where the disk is full."""
        return self._file is None or self._file.flush(sync)

    def close(self):
        """Closes the file."""
        if self._file is not None:
            self._file.flush()
            self._file.close()
            self._file = None


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
