"""Being asked to stop: a flag set by the signal, acted on at the next step boundary."""
import os
import signal

SIGNALS = (signal.SIGTERM, signal.SIGINT)


class StopRequest:
    """A predicate that turns true on SIGTERM or SIGINT. A second signal ends the process at once.

    Nothing is saved in the handler: it may run in the middle of anything. Use as a context manager.
    """

    def __init__(self):
        self.signal = None
        self._before = {}

    def __call__(self):
        return self.signal is not None

    def _handle(self, number, frame):
        if self.signal is not None:
            os._exit(128 + number)
        self.signal = number

    def __enter__(self):
        self._before = {number: signal.signal(number, self._handle) for number in SIGNALS}
        return self

    def __exit__(self, *exception):
        for number, handler in self._before.items():
            signal.signal(number, handler)
