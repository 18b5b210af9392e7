"""A file of records that a full disk neither tears nor loses: records without room wait in memory."""
import contextlib
import os

from pipeline.files import no_room, sync, sync_open

MOST_UNSYNCED = 4 * 2**20  # Bytes written and not yet durable, which are kept in memory too.


class RecordFile:
    """Appends whole records, in order, each once.

    A write that ends in the middle of a record is cut back to the record before. Records stay in memory until they are
    durable: some file systems report a full disk in fsync, and have lost by then what was written.

    Attributes:
      path: of the file, which is created with the first record.
      problem: the error of a full disk while records wait, else None.
    """

    def __init__(self, path: str):
        self.path = path
        self.problem: OSError | None = None
        self._handle: int | None = None
        self._end = os.path.getsize(path) if os.path.exists(path) else 0
        # (step, record): not in the file yet; in the file and perhaps not durable, and the bytes of these.
        self._waiting: list[tuple[int, bytes]] = []
        self._unsynced: list[tuple[int, bytes]] = []
        self._unsynced_bytes = 0

    def append(self, step: int, record: bytes) -> None:
        """Adds a record of a global step; `flush` writes it."""
        self._waiting.append((step, record))

    def flush(self, sync: bool = False) -> bool:
        """Writes everything to the file, and with `sync` makes it durable.

        Returns:
          False on a full disk: `problem` is the error, and the next call tries again.

        Raises:
          OSError: any other error.
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

    def _open(self) -> int:
        """Returns the file's descriptor."""
        if self._handle is None:
            folder = os.path.dirname(os.path.abspath(self.path))
            os.makedirs(folder, exist_ok=True)
            self._handle = os.open(self.path, os.O_WRONLY | os.O_CREAT, 0o666)
            for parent in (folder, os.path.dirname(folder)):
                sync(parent)
        return self._handle

    def _write(self) -> None:
        if not self._waiting:
            return
        handle = self._open()
        data, done = memoryview(b"".join(record for _, record in self._waiting)), 0
        try:
            while done < len(data):
                done += os.pwrite(handle, data[done:], self._end + done)
        finally:
            whole, count = 0, 0
            while count < len(self._waiting) and whole + len(self._waiting[count][1]) <= done:
                whole += len(self._waiting[count][1])
                count += 1
            self._unsynced += self._waiting[:count]
            del self._waiting[:count]
            self._end, self._unsynced_bytes = self._end + whole, self._unsynced_bytes + whole
            if done > whole:
                self._truncate(handle)

    def _sync(self) -> None:
        if self._handle is None:
            return
        try:
            sync_open(self._handle)
        except OSError:
            self._end -= self._unsynced_bytes
            self._waiting[:0] = self._unsynced
            self._unsynced, self._unsynced_bytes = [], 0
            self._truncate(self._handle)
            raise
        self._unsynced, self._unsynced_bytes = [], 0

    def _truncate(self, handle: int) -> None:
        with contextlib.suppress(OSError):  # Bytes behind the end are no whole record, and are overwritten.
            os.ftruncate(handle, self._end)

    def cut(self, end: int, step: float) -> None:
        """Keeps the first `end` bytes of the file, and of the waiting records those up to a step."""
        self._waiting = [record for record in self._waiting if record[0] <= step]
        self._unsynced = [record for record in self._unsynced if record[0] <= step]
        self._unsynced_bytes = sum(len(record) for _, record in self._unsynced)
        if end < self._end or (os.path.exists(self.path) and end < os.path.getsize(self.path)):
            os.ftruncate(self._open(), end)
            self._end = end
            self.flush(sync=True)

    def close(self) -> None:
        """Closes the file; waiting records are lost."""
        if self._handle is not None:
            os.close(self._handle)
            self._handle = None
