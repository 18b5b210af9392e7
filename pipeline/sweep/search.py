"""The loop of a sweep: proposes values, runs trials, prunes hopeless ones, records the results.

It loads neither TensorFlow nor Keras, which would take a share of the machine that the trials want.
"""
import re
import signal
import time
from collections.abc import Callable, Sequence

from pipeline.errors import UsageError
from pipeline.sweep import study
from pipeline.sweep.leaderboard import PlainLeaderboard
from pipeline.sweep.records import FAILED, FINISHED, OPEN, PRUNED, RUNNING, STOPPED, SweepDirectory, Trial
from pipeline.sweep.space import Space
from pipeline.sweep.trials import PREEMPTED, USAGE, TrialProcess

# Exit codes after a signal: once it had saved, before it could, or at a second signal. A service or batch system that
# stops every process at once sends the first one itself, and this process the second.
ENDED = (PREEMPTED, -signal.SIGTERM, -signal.SIGINT, 128 + signal.SIGTERM, 128 + signal.SIGINT)
DISK_FULL = re.compile(r"\bdisk\b.*\bfull\b")

POLL_SECONDS = 0.1
SAME_FAILURES = 3  # In a row, of a kind that every other trial will meet too: then the sweep ends.
MOST_STRAY_STOPS = 3  # Of one trial, by signals that this process did not send.


class Search:
    """Runs the trials of a sweep, several at the same time where there are places for them.

    Attributes:
      stopped: whether it was asked to stop before it was done.
    """

    def __init__(self, directory: SweepDirectory, space: Space, wanted: int,
                 command: Callable[[Trial, int], list[str]], places: int, display: PlainLeaderboard,
                 should_stop: Callable[[], bool]):
        """
        Args:
          directory: claimed.
          space: what is varied.
          wanted: total number of trials.
          command: function (trial, place) -> arguments of `python -m` that train it.
          places: number of trials that run at the same time.
          display: where progress is shown.
          should_stop: polled often.
        """
        self.directory, self.space, self.wanted, self.command = directory, space, wanted, command
        self.places, self.display, self.should_stop = places, display, should_stop
        self.stopped, self._error = False, None
        self._alike: list[Trial] = []  # Those that failed in a row for the same reason.
        self._stray: dict[int, int] = {}  # By number of a trial, how often a signal of others stopped it.
        self.metric = directory.settings["metric"]

    def run(self) -> None:
        """Runs all trials that are not done, or until asked to stop; running trials save first then.

        Raises:
          UsageError: three trials in a row failed by the same invalid settings. They are retried when the sweep is
            resumed.
        """
        processes: list[TrialProcess] = []
        try:
            while True:
                self.stopped = self.stopped or self.should_stop()
                if self.stopped or self._error:
                    for process in processes:
                        process.stop()
                else:
                    self._fill(processes)
                if not processes:
                    break
                for process in tuple(processes):
                    code = process.poll()
                    self._watch(process)
                    if code is not None:
                        processes.remove(process)
                        self._conclude(process, code)
                self.display.update(self.directory.trials, processes, self.stopped)
                time.sleep(POLL_SECONDS)
        finally:
            for process in processes:
                process.kill()
        if self._error:
            raise self._error
        self.stopped = self.stopped and unfinished(self.directory.trials, self.wanted)

    def _fill(self, processes):
        """Starts trials while there are places: interrupted ones, in order, then new ones."""
        trials = self.directory.trials
        while len(processes) < self.places:
            trial = next_open(trials, [process.trial for process in processes])
            if trial is None:
                if len(trials) >= self.wanted:
                    return
                settings = self.directory.settings
                trial = Trial(len(trials) + 1, study.propose(self.space, trials, settings["search"],
                                                             settings["flags"]["seed"], self.metric))
                trials.append(trial)
            trial.status = RUNNING
            self.directory.save()
            place = min(set(range(self.places)) - {process.place for process in processes})
            processes.append(TrialProcess(trial, place, self.command(trial, place), self.directory.file(trial.name),
                                          self.directory.file(f"{trial.name}.log")))
            self.display.begin(trial)

    def _watch(self, process):
        """Records new evaluations, and prunes a hopeless trial."""
        trial = process.trial
        known = trial.last.get("step", 0)
        if process.plan:
            trial.epochs = round(process.plan["epochs"], 4)
        for evaluation in process.news() or ():
            if evaluation["step"] <= known or trial.status == PRUNED:
                continue
            self._note(process, evaluation)
            done = evaluation["step"] >= process.plan["total_steps"]
            if not done and study.is_hopeless(self.directory.settings["prune"], self.space, self.directory.trials,
                                              trial, self.metric):
                trial.status = PRUNED
                process.stop()
            self.directory.save()

    def _note(self, process, evaluation):
        trial = process.trial
        trial.examples = evaluation["examples"]
        trial.evaluations.append({name: evaluation[name] for name in ("step", "epoch", "accuracy", "loss")})

    def _conclude(self, process, code):
        """Records how a process ended."""
        trial = process.trial
        if trial.status == PRUNED:
            pass  # Even if it completed: when the signal came is chance, that it was hopeless is not.
        elif code == 0:
            self._finish(process)
        elif code in ENDED and (process.asked or self._tolerates(trial)):
            trial.status = STOPPED
        else:
            trial.status, trial.message = FAILED, process.failure(code)
        self._count_alike(trial, code)
        self.directory.save()
        self.directory.write_leaderboard()
        self.display.end(trial, self.directory.trials)

    def _finish(self, process):
        """Reads the evaluations of a complete run once more: a rollback may have replaced some."""
        trial = process.trial
        trial.evaluations = []
        for evaluation in process.evaluations():
            self._note(process, evaluation)
        trial.status = FINISHED
        if trial.last.get(self.metric) is None:
            trial.status, trial.message = FAILED, f"its {self.metric} on the validation split is not finite"

    def _tolerates(self, trial):
        self._stray[trial.number] = self._stray.get(trial.number, 0) + 1
        return self._stray[trial.number] <= MOST_STRAY_STOPS

    def _count_alike(self, trial, code):
        """Ends the sweep where trials fail in a row for a reason that has nothing to do with their values."""
        of_all = trial.status == FAILED and (code == USAGE or DISK_FULL.search(trial.message))
        if not of_all or (self._alike and self._alike[0].message != trial.message):
            self._alike = []
        if not of_all:
            return
        self._alike.append(trial)
        if len(self._alike) == SAME_FAILURES:
            self._error = UsageError(f"{SAME_FAILURES} trials in a row failed alike: {trial.message}")
            for one in self._alike:
                one.status, one.message = STOPPED, None


def next_open(trials: Sequence[Trial], running: Sequence[Trial]) -> Trial | None:
    """Returns the first trial to continue that is not running, or None."""
    return next((trial for trial in trials if trial.status in OPEN and not any(trial is one for one in running)), None)


def unfinished(trials: Sequence[Trial], wanted: int) -> bool:
    """Returns whether trials are left to run."""
    return len(trials) < wanted or any(trial.status in OPEN for trial in trials)
