"""An extension of the tests: a callback that kills its process at the moment in $KILL_AT, EVENT:STEP:SECONDS."""
import os
import signal
import threading

from pipeline import register
from pipeline.callbacks import Callback


@register.callback("killed_at")
class KilledAt(Callback):
    """Kills the process so many seconds after an event (start, window, evaluation, checkpoint) of a step."""

    def __init__(self, experiment, workdir):
        self._event, step, seconds = os.environ.get("KILL_AT", "never:0:0").split(":")
        self._step, self._seconds = int(step), float(seconds)

    def _on(self, event, step):
        if (event, step) == (self._event, self._step):
            if not self._seconds:
                os.kill(os.getpid(), signal.SIGKILL)
            threading.Timer(self._seconds, os.kill, (os.getpid(), signal.SIGKILL)).start()

    def on_start(self, restored):
        self._on("start", restored.step)

    def on_window(self, window):
        self._on("window", window.step)

    def on_evaluation(self, evaluated):
        self._on("evaluation", evaluated.step)

    def on_checkpoint(self, step):
        self._on("checkpoint", step)
