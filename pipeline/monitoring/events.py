"""TensorBoard event files with one global step axis that survives a kill: every step stands there once."""
import glob
import itertools
import os
import socket
import struct
import time

import tensorflow as tf
from tensorboard.compat.proto.event_pb2 import Event
from tensorboard.compat.proto.summary_pb2 import Summary

from pipeline import files

_NUMBER = itertools.count()
_HEADER, _CHECKSUM = 12, 4  # A record: its length (8 bytes) and the checksum of that (4), the bytes, their checksum.


class EventWriter:
    """Writes the scalars of one TensorBoard run, an event a step.

    The records are written directly (tf.summary costs an operation a value), in the format that TensorBoard reads.
    """

    def __init__(self, directory):
        self.directory = directory
        self._writer = None
        self._path = None

    def cut_after(self, step):
        """Cuts the files that are there before the first event of a later step and before a torn record."""
        for path in event_files(self.directory):
            end = 0
            for event, event_end in read_events(path):
                if event.step > step:
                    break
                end = event_end
            if end < os.path.getsize(path):
                os.truncate(path, end)
                files.sync(path)

    def _open(self):
        os.makedirs(self.directory, exist_ok=True)
        # TensorBoard reads files in the order of their names, which start with the time.
        name = f"events.out.tfevents.{time.time():.0f}.{socket.gethostname()}.{os.getpid()}.{next(_NUMBER)}"
        self._path = os.path.join(self.directory, name)
        self._writer = tf.io.TFRecordWriter(self._path)
        self._writer.write(Event(wall_time=time.time(), file_version="brain.Event:2").SerializeToString())
        for folder in (self.directory, os.path.dirname(self.directory)):
            files.sync(folder)

    def scalars(self, step, wall_time, values):
        """Writes {tag: float} at a global step; wall_time in seconds since the epoch."""
        if self._writer is None:
            self._open()
        summary = Summary(value=[Summary.Value(tag=tag, simple_value=value) for tag, value in values.items()])
        self._writer.write(Event(wall_time=wall_time, step=step, summary=summary).SerializeToString())

    def flush(self, sync=False):
        """Hands everything to the file, and with `sync` to the disk."""
        if self._writer is None:
            return
        self._writer.flush()
        if sync:
            files.sync(self._path)

    def close(self):
        """Closes the file."""
        if self._writer is not None:
            self._writer.close()
            self._writer = None


def event_files(directory):
    """Returns the event files of a run in the order in which TensorBoard reads them."""
    return sorted(glob.glob(os.path.join(glob.escape(directory), "events.out.tfevents.*")))


def read_events(path):
    """Yields (event, offset in bytes at which its record ends) for the whole records of a file."""
    size = os.path.getsize(path)
    with open(path, "rb") as file:
        while header := file.read(_HEADER):
            if len(header) < _HEADER:
                return
            length = struct.unpack("<Q", header[:8])[0]
            end = file.tell() + length + _CHECKSUM
            if end > size:
                return
            yield Event.FromString(file.read(length)), end
            file.seek(end)
