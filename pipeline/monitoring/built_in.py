"""The built-in callbacks of a run, in the order in which they are called."""
import sys
from typing import Any

from pipeline.callbacks import Callback
from pipeline.console import Console
from pipeline.distributed.input_distribution import uses_gpus
from pipeline.monitoring.alerts import AlertContext, Alerts
from pipeline.monitoring.goodput import GoodputTracker
from pipeline.monitoring.gpu_metrics import create_gpu_metrics
from pipeline.monitoring.launches import Launches
from pipeline.monitoring.live_progress import LiveProgress
from pipeline.monitoring.profile import create_profile
from pipeline.monitoring.progress import NullProgress, PlainProgress
from pipeline.monitoring.recorder import Recorder
from pipeline.monitoring.system_metrics import create_system_metrics
from pipeline.monitoring.tensorboard.writer import TensorBoardWriter
from pipeline.run_directory import RunDirectory
from pipeline.terminal import is_live


def create_progress(plan: Any, verbosity: str) -> PlainProgress:
    """Returns the display for a run: none if quiet, a live one on a terminal, else lines."""
    if verbosity == "quiet":
        return NullProgress(plan)
    return LiveProgress(plan) if is_live(sys.stdout) else PlainProgress(plan)


def create_callbacks(experiment: Any, directory: RunDirectory, step: int, recorder: Recorder, progress: PlainProgress,
                     tracker: GoodputTracker, launches: Launches, watchdog: Any, console: Console
                     ) -> tuple[Callback, ...]:
    """Returns the callbacks of a run that begins at `step`: one that adds to a window comes before those that read it.

    This start is recorded in `launches`; `console` gets the warnings that are written with --verbosity=quiet too.
    """
    profile = create_profile(experiment.plan, step, directory, tracker, progress.info, console.warning, watchdog.beat,
                             experiment.evaluation_due)
    optional: list[Callback] = [] if profile is None else [profile]
    if experiment.config.runtime.tensorboard != "scalars":
        optional.append(TensorBoardWriter(experiment, directory, recorder))
    gpus = create_gpu_metrics("GPU" if uses_gpus(experiment.strategy) else "CPU", recorder.path, progress.info,
                              progress.warning)
    return (create_system_metrics(experiment, tracker, launches.path), *gpus, recorder, progress,
            Alerts(AlertContext.of(experiment), progress.warning), *optional)
