"""TensorBoard event files with one global step axis that survives a kill: every step stands there once."""
import glob
import itertools
import os
import socket
import time

import tensorflow as tf
from tensorboard.compat.proto.event_pb2 import Event
from tensorboard.compat.proto.summary_pb2 import Summary

_NUMBER = itertools.count()


class EventWriter:
    """Writes the scalars of one TensorBoard run, an event a step.

    The records are written directly (tf.summary costs an operation a value), in the format that TensorBoard reads.
    """

    def __init__(self, directory):
        self.directory = directory
        self._writer = None
        self._path = None

    def cut_after(self, step):
        """Rewrites the files that are there without later steps and without torn records."""
        for path in event_files(self.directory):
            events = list(read_events(path))
            kept = [e for e in events if e.step <= step]
            if len(kept) == len(events) and is_whole(path):
                continue
            with tf.io.TFRecordWriter(f"{path}.tmp") as writer:
                for event in kept:
                    writer.write(event.SerializeToString())
            os.replace(f"{path}.tmp", path)

    def _open(self):
        os.makedirs(self.directory, exist_ok=True)
        # TensorBoard reads files in the order of their names, which start with the time.
        name = f"events.out.tfevents.{time.time():.0f}.{socket.gethostname()}.{os.getpid()}.{next(_NUMBER)}"
        self._path = os.path.join(self.directory, name)
        self._writer = tf.io.TFRecordWriter(self._path)
        self._writer.write(Event(wall_time=time.time(), file_version="brain.Event:2").SerializeToString())

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
            handle = os.open(self._path, os.O_RDONLY)
            os.fsync(handle)
            os.close(handle)

    def close(self):
        """Closes the file."""
        if self._writer is not None:
            self._writer.close()
            self._writer = None


def event_files(directory):
    """Returns the event files of a run in the order in which TensorBoard reads them."""
    return sorted(p for p in glob.glob(os.path.join(glob.escape(directory), "events.out.tfevents.*"))
                  if not p.endswith(".tmp"))


def is_whole(path):
    """Tells whether the last record of a file is whole."""
    size = 0
    for record in _records(path):
        size += len(record) + 16  # Length (8), its checksum (4), the record, its checksum (4).
    return size == os.path.getsize(path)


def _records(path):
    try:
        yield from (r.numpy() for r in tf.data.TFRecordDataset(path))
    except tf.errors.DataLossError:  # The end of a file whose writer was killed.
        return


def read_events(path):
    """Yields the events of a file up to the first torn record."""
    for record in _records(path):
        yield Event.FromString(record)
