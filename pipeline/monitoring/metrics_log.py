"""metrics.jsonl and launches.jsonl: one JSON object a line, appended, synced when asked."""
import json
import math
import os

from pipeline.files import plain
from pipeline.monitoring.record_file import RecordFile


class JsonLines:
    """A file of one JSON object a line. A torn last line, left by a killed process, is cut off when it is opened."""

    def __init__(self, path):
        self.path = path
        self._file = RecordFile(path)
        self.cut_after(math.inf)

    @property
    def problem(self):
        """The OSError of a full disk while lines wait in memory for room, else None."""
        return self._file.problem

    def cut_after(self, step, evaluated=math.inf):
        """Drops the records of later steps: after a restore to `step` they are computed anew. They are the last ones.

        Args:
          step: the last one whose records stay.
          evaluated: the last one whose evaluation stays.
        """
        end = 0
        if os.path.exists(self.path):
            with open(self.path, "rb") as file:
                text = file.read()
            end = len(text)
            while end:
                begin = text.rfind(b"\n", 0, end - 1) + 1
                record = parse_line(text[begin:end].decode("utf-8", "replace"))
                if record is not None and record.get("step", 0) <= (
                        min(step, evaluated) if record.get("kind") == "evaluation" else step):
                    break
                end = begin
        self._file.cut(end, step)

    def append(self, records):
        """Appends dicts; floats that JSON cannot hold become null. On a full disk they wait in memory, see flush."""
        for record in records:
            self._file.append(record.get("step", 0), (json.dumps(plain(record)) + "\n").encode())
        self.flush()

    def flush(self, sync=False):
        """Writes what waits, and with `sync` makes it durable; returns False where the disk is full."""
        return self._file.flush(sync)

    def sync(self):
        """Makes everything appended durable; returns False where the disk is full."""
        return self.flush(sync=True)

    def close(self):
        """Closes the file."""
        self._file.close()


def parse_line(line):
    """Returns the object in a line, or None where the line is torn."""
    if not line.endswith("\n"):
        return None
    try:
        return json.loads(line)
    except ValueError:
        return None


def read_records(path):
    """Yields the records of a file in order, up to the first torn line; nothing where there is no file."""
    if not os.path.exists(path):
        return
    with open(path, encoding="utf-8", errors="replace") as file:
        for line in file:
            record = parse_line(line)
            if record is None:
                return
            yield record
