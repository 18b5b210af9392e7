"""That no worker outlives the supervisor, however that ends."""
import contextlib
import ctypes
import os
import signal

from pipeline.training.preemption import NOTICES, ORDERS

PR_SET_PDEATHSIG = 1  # <linux/prctl.h>


class Guard:
    """A process that kills the process groups it was told of when the supervisor is gone, however that ended.

    The supervisor holds the one end of a pipe that anything is ever written to; the kernel closes it with the process.
    """

    def __init__(self):
        listen, self._sender = os.pipe()
        self._pid = os.fork()
        if not self._pid:
            try:
                self._watch(listen)
            finally:
                os._exit(0)
        os.close(listen)

    def _watch(self, listen):
        os.setsid()
        for number in (*ORDERS, *NOTICES):
            signal.signal(number, signal.SIG_IGN)
        # Else it would hold a lock, a terminal or a pipe of the supervisor's beyond the supervisor's end.
        nothing = os.open(os.devnull, os.O_RDWR)
        for number in (0, 1, 2):
            os.dup2(nothing, number)
        os.closerange(3, listen)
        os.closerange(listen + 1, os.sysconf("SC_OPEN_MAX"))
        groups = set()
        with open(listen, encoding="ascii") as told:
            for line in told:
                (groups.add if line[0] == "+" else groups.discard)(int(line[1:]))
        for group in groups:
            kill_group(group)

    def add(self, group):
        """Takes a process group into its care."""
        self._send(f"+{group}\n")

    def remove(self, group):
        """Forgets a process group; to be called before its number can be that of another."""
        self._send(f"-{group}\n")

    def _send(self, text):
        with contextlib.suppress(BrokenPipeError):  # Somebody killed it; the kernel still ends the workers themselves.
            os.write(self._sender, text.encode())

    def close(self):
        """Lets it end; what it still has in its care is killed."""
        os.close(self._sender)
        os.waitpid(self._pid, 0)


def kill_group(group):
    """Kills every process of a group; nothing where there is none left."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(group, signal.SIGKILL)


def end_with(parent):
    """Returns a function for a new process: the kernel kills it when the process `parent` is gone."""
    libc = ctypes.CDLL(None)

    def tie():
        libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
        if os.getppid() != parent:  # Gone before that.
            os._exit(1)

    return tie
