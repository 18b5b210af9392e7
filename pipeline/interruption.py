"""Ends a command with one line on Ctrl-C, SIGTERM and similar signals, unless the command handles them itself.

Python runs a signal handler between two instructions of the main thread, and one call of TensorFlow may take long; a
thread receives the signals meanwhile, and ends the process where the main thread does not. Standard library only.
"""
import contextlib
import os
import signal
import socket
import threading
from collections.abc import Callable, Iterator

from pipeline import activity, silence

# From the keyboard, the system, a lost terminal, schedulers before a job ends, and a CPU time limit (ulimit -t).
SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2, signal.SIGXCPU)
PATIENCE = 10.0  # Seconds for the main thread to clean up.
_command: str | None = None
_kept: list[socket.socket] = []  # Wake-up sockets of an interrupted process, open until it exits.


class Interrupted(KeyboardInterrupt):
    """The signal `number` asked the command to end."""

    def __init__(self, number: int):
        super().__init__()
        self.number = number


def command() -> str | None:
    """Returns the command that the process runs, "mirrorline train"; None in a user's Python."""
    return _command


def is_ending() -> bool:
    """Tells whether this process was interrupted and is about to exit; see `interruptible`."""
    return bool(_kept)


def interrupts(number: int) -> bool:
    """Tells whether a signal raises Interrupted, so that others may handle it instead."""
    return isinstance(signal.getsignal(number), _Handler)


def words(doing: str | None) -> str:
    """Returns the line about an interruption of an activity."""
    return f"interrupted while {doing}; nothing was written" if doing else "interrupted"


@contextlib.contextmanager
def interruptible(name: str, ends: bool = False) -> Iterator[Callable[[], int | None]]:
    """Makes signals raise Interrupted inside the block; ignored ones, as with nohup, stay ignored.

    Args:
      name: of the command, for the line where the process ends from a thread.
      ends: whether an interrupted process only reports it and exits. It keeps handling signals until then: a second one
        ends it at once, with the same exit code.

    Yields:
      Function that returns the number of the signal that came, None before.
    """
    global _command
    if threading.current_thread() is not threading.main_thread():
        yield lambda: None
        return
    handler = _Handler(name)
    before = {number: signal.signal(number, handler) for number in SIGNALS
              if signal.getsignal(number) != signal.SIG_IGN}
    wakeup = signal.set_wakeup_fd(handler.sender.fileno(), warn_on_full_buffer=False)
    outer, _command = _command, name
    threading.Thread(target=handler.listen, daemon=True).start()
    try:
        yield lambda: handler.received[0] if handler.received else None
    finally:
        _command = outer
        handler.left.set()
        if ends and handler.raised:
            _kept.append(handler.sender)
        else:
            for number, previous in before.items():
                signal.signal(number, previous)
            signal.set_wakeup_fd(wakeup)
            handler.sender.close()  # It ends the thread.


class _Handler:
    """Raises Interrupted on the first signal; its thread ends the process where the main thread does not.

    Attributes:
      received: numbers of the signals so far.
      raised: whether Interrupted was raised.
      left: set once the block has ended: the caller reports the interruption.
      sender: the wake-up socket that the interpreter writes to.
    """

    def __init__(self, name: str):
        self.received: list[int] = []
        self.raised, self.left = False, threading.Event()
        self._name = name
        self._receiver, self.sender = socket.socketpair()
        self.sender.setblocking(False)

    def __call__(self, number, frame):
        if not self.raised:
            self.raised = True
            raise Interrupted(number)

    def listen(self) -> None:
        """Reads the signals until the socket is closed."""
        try:
            while number := self._receiver.recv(1):
                # Signals that the command handles itself are left to it.
                if number[0] not in SIGNALS or not interrupts(number[0]):
                    continue
                self.received.append(number[0])
                if len(self.received) > 1:
                    self._exit()
                self._receiver.settimeout(PATIENCE)
        except TimeoutError:
            self._exit()
        except OSError:
            pass  # It was closed.

    def _exit(self):
        if not self.left.is_set():
            text = f"{self._name}: {words(activity.running())}\n"
            with contextlib.suppress(OSError):
                os.write(silence.screen(), text.encode(errors="backslashreplace"))
        os._exit(128 + self.received[0])
