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
    """Tells whether this process was interrupted and is about to exit; see `heard`."""
    return bool(_kept)


def hears(number: int) -> bool:
    """Tells whether a signal ends the process as Interrupted, so that others may handle it instead."""
    return getattr(signal.getsignal(number), "interrupts", False)


def words(doing: str | None) -> str:
    """Returns the line about an interruption of an activity."""
    return f"interrupted while {doing}; nothing was written" if doing else "interrupted"


@contextlib.contextmanager
def heard(name: str, ends: bool = False) -> Iterator[Callable[[], int | None]]:
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
    came: list[int] = []
    raised: list[int] = []
    receiver, sender = socket.socketpair()
    left = threading.Event()  # The block has ended: the caller reports the interruption.
    sender.setblocking(False)

    def end(number, frame):
        if not raised:
            raised.append(number)
            raise Interrupted(number)

    end.interrupts = True  # type: ignore[attr-defined]

    def exit_now():
        if not left.is_set():
            with contextlib.suppress(OSError):
                os.write(silence.screen(), f"{name}: {words(activity.running())}\n".encode(errors="backslashreplace"))
        os._exit(128 + came[0])

    def listen():
        try:
            while number := receiver.recv(1):
                # Signals that the command handles itself are left to it.
                if number[0] not in SIGNALS or signal.getsignal(number[0]) is not end:
                    continue
                came.append(number[0])
                if len(came) > 1:
                    exit_now()
                receiver.settimeout(PATIENCE)
        except TimeoutError:
            exit_now()
        except OSError:
            pass  # It was closed.

    before = {number: signal.signal(number, end) for number in SIGNALS
              if signal.getsignal(number) != signal.SIG_IGN}
    wakeup, outer, _command = signal.set_wakeup_fd(sender.fileno(), warn_on_full_buffer=False), _command, name
    threading.Thread(target=listen, daemon=True).start()
    try:
        yield lambda: came[0] if came else None
    finally:
        _command = outer
        left.set()
        if ends and raised:
            _kept.append(sender)
        else:
            _restore(before, wakeup, sender)


def _restore(handlers, wakeup, sender):
    """Lets signals be heard as before, and ends the thread that has listened."""
    for number, handler in handlers.items():
        signal.signal(number, handler)
    signal.set_wakeup_fd(wakeup)
    sender.close()
