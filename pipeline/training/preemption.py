"""Stop requests: signals set a flag, which is read at the next step boundary. Standard library only."""
import contextlib
import os
import signal
import socket
import threading
from collections.abc import Callable, Iterator
from typing import Any

from pipeline import interruption, terminal

ORDERS = (signal.SIGTERM, signal.SIGINT)
# A closed terminal, and the warning of a scheduler before the end (--signal=USR1 of Slurm).
NOTICES = (signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2)


def stop_signals() -> tuple[signal.Signals, ...]:
    """Returns the signals that ask this process to stop: not those ignored, as by nohup, or handled by others."""
    return (*ORDERS, *(number for number in (*NOTICES, signal.SIGXCPU)
                       if signal.getsignal(number) == signal.SIG_DFL or interruption.interrupts(number)))


def in_main_thread() -> bool:
    """Tells whether this is the main thread, in which alone Python handles signals."""
    return threading.current_thread() is threading.main_thread()


class StopRequest:
    """A predicate that becomes true on SIGTERM, SIGINT, SIGHUP, SIGUSR1, SIGUSR2 and SIGXCPU. Use as a context manager.

    A second SIGTERM or SIGINT ends the process at once; notices may come repeatedly, as from a closed terminal. Nothing
    is saved in the handler, which may interrupt anything. Python runs handlers between two instructions of the main
    thread only, and a call of TensorFlow may take long, so a thread reads the signals from the interpreter's wake-up
    descriptor. Outside the main thread no signals are received.
    """

    def __init__(self) -> None:
        self._asked, self._orders = False, 0
        self._end: Callable[[], None] | None = None
        self._before: dict[signal.Signals, Any] = {}
        self._sender: socket.socket | None = None

    def __call__(self) -> bool:
        return self._asked

    def _read(self, receiver, numbers):
        with receiver:
            while number := receiver.recv(1):
                if number[0] not in numbers:
                    continue
                self._asked = True
                self._orders += number[0] in ORDERS
                if self._end:
                    self._end()
                if self._end or self._orders > 1:
                    os._exit(128 + number[0])
                if number[0] == signal.SIGHUP:
                    terminal.let_go()

    @contextlib.contextmanager
    def at_once(self, end: Callable[[], None]) -> Iterator[None]:
        """Makes the first signal in the block end the process, after a call of `end` in another thread."""
        self._end = end
        try:
            yield
        finally:
            self._end = None

    def __enter__(self) -> "StopRequest":
        if in_main_thread():
            receiver, self._sender = socket.socketpair()
            self._sender.setblocking(False)
            self._wakeup = signal.set_wakeup_fd(self._sender.fileno(), warn_on_full_buffer=False)
            numbers = stop_signals()
            self._reader = threading.Thread(target=self._read, args=(receiver, numbers), daemon=True)
            self._reader.start()
            self._before = {number: signal.signal(number, lambda *_: None) for number in numbers}
        return self

    def __exit__(self, *exception: Any) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
        if self._sender:
            signal.set_wakeup_fd(self._wakeup)
            self._sender.shutdown(socket.SHUT_RDWR)  # Processes forked in the meantime have it open too.
            self._sender.close()
            self._reader.join()
