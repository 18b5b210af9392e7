"""A file of records that a full disk can neither tear nor lose: what does not fit waits in memory."""
import contextlib
import os

from pipeline.files import no_room, sync

MOST_UNSYNCED = 4 * 2**20  # Bytes: what is not durable is kept in memory too, and that stays small.


class RecordFile:
    """Appends whole records, in order, each once.

    A write that ends in the middle of a record is cut back to the record before. Records are forgotten only when they
    are durable: some file systems find out in fsync that there is no room, and have lost by then what was written.

    Attributes:
      path: of the file; made with the first record.
      problem: the OSError of a full disk, while records wait for room; else None.
    """

    def __init__(self, path):
        self.path, self.problem = path, None
        self._handle = None
        self._end = os.path.getsize(path) if os.path.exists(path) else 0
        # (step, bytes): not in the file yet; in it, perhaps not on the disk, and how many bytes those are.
        self._waiting, self._unsynced, self._unsynced_bytes = [], [], 0

    def append(self, step, record):
        """Takes a record (bytes) of a global step; `flush` writes it."""
        self._waiting.append((step, record))

    def flush(self, sync=False):
        """Hands everything to the file, and with `sync` to the disk.

        Returns:
          False where the disk is full: then `problem` says how, and what is missing is tried again at the next call.

        Raises:
          OSError: of any other kind.
        """
        try:
            self._write()
            if sync or self._unsynced_bytes > MOST_UNSYNCED:
                self._sync()
        except OSError as error:
            if not no_room(error):
                raise
            self.problem = error
            return False
        self.problem = None
        return True

    def _open(self):
        if self._handle is not None:
            return
        folder = os.path.dirname(os.path.abspath(self.path))
        os.makedirs(folder, exist_ok=True)
        self._handle = os.open(self.path, os.O_WRONLY | os.O_CREAT, 0o666)
        for parent in (folder, os.path.dirname(folder)):
            sync(parent)

    def _write(self):
        if not self._waiting:
            return
        self._open()
        data, done = memoryview(b"".join(record for _, record in self._waiting)), 0
        try:
            while done < len(data):
                done += os.pwrite(self._handle, data[done:], self._end + done)
        finally:
            whole, count = 0, 0
            while count < len(self._waiting) and whole + len(self._waiting[count][1]) <= done:
                whole += len(self._waiting[count][1])
                count += 1
            self._unsynced += self._waiting[:count]
            del self._waiting[:count]
            self._end, self._unsynced_bytes = self._end + whole, self._unsynced_bytes + whole
            if done > whole:
                self._truncate()

    def _sync(self):
        if self._handle is None:
            return
        try:
            os.fsync(self._handle)
        except OSError:
            self._end -= self._unsynced_bytes
            self._waiting[:0] = self._unsynced
            self._unsynced, self._unsynced_bytes = [], 0
            self._truncate()
            raise
        self._unsynced, self._unsynced_bytes = [], 0

    def _truncate(self):
        with contextlib.suppress(OSError):  # What is behind the end is no whole record, and is written over.
            os.ftruncate(self._handle, self._end)

    def cut(self, end, step):
        """Leaves the first `end` bytes of the file, and of what waits the records up to a step."""
        self._waiting = [record for record in self._waiting if record[0] <= step]
        self._unsynced = [record for record in self._unsynced if record[0] <= step]
        self._unsynced_bytes = sum(len(record) for _, record in self._unsynced)
        if end < self._end or (os.path.exists(self.path) and end < os.path.getsize(self.path)):
            self._open()
            os.ftruncate(self._handle, end)
            self._end = end
            self.flush(sync=True)

    def close(self):
        """Closes the file; what waits is lost."""
        if self._handle is not None:
            os.close(self._handle)
            self._handle = None
