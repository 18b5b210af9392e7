"""Being asked to stop: a flag set by the signal, acted on at the next step boundary."""
import contextlib
import os
import signal
import socket
import threading

SIGNALS = (signal.SIGTERM, signal.SIGINT)


class StopRequest:
    """A predicate that turns true on SIGTERM or SIGINT. A second signal ends the process at once.

    Nothing is saved in the handler: it may run in the middle of anything. Python runs handlers between two instructions
    of the main thread only, and one call of TensorFlow may last; so the signals are counted by a thread that reads them
    from the interpreter's wake-up descriptor. Use as a context manager, in the main thread.
    """

    def __init__(self):
        self._count, self._end = 0, None
        self._before = {}

    def __call__(self):
        return self._count > 0

    def _read(self, receiver):
        while number := receiver.recv(1):
            if number[0] not in SIGNALS:
                continue
            self._count += 1
            if self._end:
                self._end()
            if self._end or self._count > 1:
                os._exit(128 + number[0])

    @contextlib.contextmanager
    def at_once(self, end):
        """Lets the first signal end the process inside, after a call of `end` in a thread: nothing is to be saved."""
        self._end = end
        try:
            yield
        finally:
            self._end = None

    def __enter__(self):
        receiver, self._sender = socket.socketpair()
        self._sender.setblocking(False)
        self._wakeup = signal.set_wakeup_fd(self._sender.fileno(), warn_on_full_buffer=False)
        threading.Thread(target=self._read, args=(receiver,), daemon=True).start()
        self._before = {number: signal.signal(number, lambda *_: None) for number in SIGNALS}
        return self

    def __exit__(self, *exception):
        for number, handler in self._before.items():
            signal.signal(number, handler)
        signal.set_wakeup_fd(self._wakeup)
        self._sender.close()
