"""The built-in callbacks of a run, in the order in which they are called."""
import sys

from pipeline.callbacks import Callback
from pipeline.monitoring.alerts import Alerts, Circumstances
from pipeline.monitoring.live_progress import LiveProgress
from pipeline.monitoring.profile import create_profile
from pipeline.monitoring.progress import NullProgress, PlainProgress
from pipeline.monitoring.system_metrics import create_system_metrics
from pipeline.monitoring.tensorboard.writer import TensorBoardWriter
from pipeline.terminal import is_live


def create_progress(plan, verbosity: str) -> PlainProgress:
    """Returns the display that fits: none if quiet, a live one on a terminal, lines elsewhere."""
    if verbosity == "quiet":
        return NullProgress(plan)
    return LiveProgress(plan) if is_live(sys.stdout) else PlainProgress(plan)


def create_callbacks(experiment, directory, step, recorder, progress, tracker, launches, watchdog, console
                     ) -> tuple[Callback, ...]:
    """Returns the callbacks of a run in order: what adds to a window comes before what reads it.

    Args:
      experiment: Experiment.
      directory: RunDirectory, claimed.
      step: where the run begins.
      recorder: Recorder.
      progress: the display.
      tracker: GoodputTracker.
      launches: Launches of the run, this start noted in it.
      watchdog: Watchdog.
      console: where warnings go that are written with --verbosity=quiet too.
    """
    profile = create_profile(experiment.plan, step, directory, tracker, progress.info, console.warning, watchdog.beat,
                             experiment.evaluation_due)
    scalars_only = experiment.config.runtime.tensorboard == "scalars"
    optional = [] if profile is None else [profile]
    if not scalars_only:
        optional.append(TensorBoardWriter(experiment, directory, recorder))
    return (create_system_metrics(experiment, tracker, launches.path), recorder, progress,
            Alerts(Circumstances.of(experiment), progress.warning), *optional)
