"""Makes sure that no worker outlives the supervisor, however that ends."""
import contextlib
import os
import signal

from pipeline.training.preemption import NOTICES, ORDERS


class Guard:
    """A process that kills the process groups in its care when the supervisor is gone.

    The supervisor holds the only writing end of a pipe; the kernel closes it with the process.
    """

    def __init__(self) -> None:
        reader, self._writer = os.pipe()
        self._pid = os.fork()
        if not self._pid:
            try:
                self._watch(reader)
            finally:
                os._exit(0)
        os.close(reader)

    def _watch(self, reader: int) -> None:
        os.setsid()
        for number in (*ORDERS, *NOTICES):
            signal.signal(number, signal.SIG_IGN)
        # Otherwise it would hold a lock, a terminal or a pipe of the supervisor beyond the supervisor's end.
        nothing = os.open(os.devnull, os.O_RDWR)
        for descriptor in (0, 1, 2):
            os.dup2(nothing, descriptor)
        os.closerange(3, reader)
        os.closerange(reader + 1, os.sysconf("SC_OPEN_MAX"))
        groups: set[int] = set()
        with open(reader, encoding="ascii") as lines:
            for line in lines:
                (groups.add if line[0] == "+" else groups.discard)(int(line[1:]))
        for group in groups:
            kill_group(group)

    def add(self, group: int) -> None:
        """Takes a process group into its care."""
        self._send(f"+{group}\n")

    def remove(self, group: int) -> None:
        """Forgets a process group; to be called before its number can be reused."""
        self._send(f"-{group}\n")

    def _send(self, text: str) -> None:
        with contextlib.suppress(BrokenPipeError):  # It was killed; the kernel still ends the workers themselves.
            os.write(self._writer, text.encode())

    def close(self) -> None:
        """Ends it; groups that are still in its care are killed."""
        os.close(self._writer)
        os.waitpid(self._pid, 0)


def kill_group(group: int) -> None:
    """Kills every process of a group, if any."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(group, signal.SIGKILL)
