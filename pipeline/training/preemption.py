"""Being asked to stop: a flag set by the signal, acted on at the next step boundary. Standard library only."""
import contextlib
import os
import signal
import socket
import threading

from pipeline import interruption, terminal

ORDERS = (signal.SIGTERM, signal.SIGINT)
# A terminal that was closed, and what engines send some time before the end (Slurm's --signal=USR1).
NOTICES = (signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2)


def heard():
    """Returns the signals that ask this process to stop: not those ignored, as by nohup, or heard by others."""
    return (*ORDERS, *(number for number in NOTICES
                       if signal.getsignal(number) == signal.SIG_DFL or interruption.hears(number)))


def in_main_thread():
    """Tells whether this is the thread that Python lets hear signals."""
    return threading.current_thread() is threading.main_thread()


class StopRequest:
    """A predicate that turns true on SIGTERM, SIGINT, SIGHUP, SIGUSR1 and SIGUSR2.

    A second SIGTERM or SIGINT ends the process at once; of notices there may be many, as where a terminal is closed.
    Nothing is saved in the handler: it may run in the middle of anything. Python runs handlers between two instructions
    of the main thread only, and one call of TensorFlow may last; so the signals are counted by a thread that reads them
    from the interpreter's wake-up descriptor. Use as a context manager; in another thread than the main one it hears
    nothing.
    """

    def __init__(self):
        self._asked, self._orders, self._end = False, 0, None
        self._before, self._sender = {}, None

    def __call__(self):
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
    def at_once(self, end):
        """Lets the first signal end the process inside, after a call of `end` in a thread: nothing is to be saved."""
        self._end = end
        try:
            yield
        finally:
            self._end = None

    def __enter__(self):
        if in_main_thread():
            receiver, self._sender = socket.socketpair()
            self._sender.setblocking(False)
            self._wakeup = signal.set_wakeup_fd(self._sender.fileno(), warn_on_full_buffer=False)
            numbers = heard()
            self._reader = threading.Thread(target=self._read, args=(receiver, numbers), daemon=True)
            self._reader.start()
            self._before = {number: signal.signal(number, lambda *_: None) for number in numbers}
        return self

    def __exit__(self, *exception):
        for number, handler in self._before.items():
            signal.signal(number, handler)
        if self._sender:
            signal.set_wakeup_fd(self._wakeup)
            self._sender.shutdown(socket.SHUT_RDWR)  # Whoever was forked meanwhile has it open too.
            self._sender.close()
            self._reader.join()
