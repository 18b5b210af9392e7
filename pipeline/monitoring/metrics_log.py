"""metrics.jsonl and launches.jsonl: one JSON object a line, appended, synced when asked."""
import json
import os

from pipeline.files import plain, sync, write_text


class JsonLines:
    """A file of one JSON object a line. A torn last line, left by a killed process, is cut off when it is opened."""

    def __init__(self, path):
        self.path = path
        self._cut(lambda record: True)
        self._file = open(path, "a", encoding="utf-8")  # noqa: SIM115
        sync(os.path.dirname(os.path.abspath(path)))

    def _cut(self, keep):
        """Leaves the records for which keep(record) holds, up to the first torn line; atomically."""
        if not os.path.exists(self.path):
            return
        kept, dropped = [], False
        with open(self.path, encoding="utf-8", errors="replace") as file:
            for line in file:
                record = parse_line(line)
                if record is None or not keep(record):
                    dropped = True
                    if record is None:
                        break
                    continue
                kept.append(line)
        if dropped:
            write_text(self.path, "".join(kept))

    def cut_after(self, step):
        """Drops the records of later steps: after a restore to `step` they are computed anew."""
        self._file.close()
        self._cut(lambda record: record.get("step", 0) <= step)
        self._file = open(self.path, "a", encoding="utf-8")  # noqa: SIM115

    def append(self, records):
        """Appends dicts; floats that JSON cannot hold become null."""
        self._file.write("".join(json.dumps(plain(record)) + "\n" for record in records))
        self._file.flush()

    def sync(self):
        """Makes everything appended durable."""
        os.fsync(self._file.fileno())

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
