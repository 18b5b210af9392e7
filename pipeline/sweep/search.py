"""The driver of a sweep: asks for values, runs trials, ends hopeless ones, keeps what came of them.

It loads neither TensorFlow nor Keras, which would take a share of the machine that the trials want.
"""
import re
import signal
import time

from pipeline.errors import UsageError
from pipeline.sweep import study
from pipeline.sweep.records import FAILED, FINISHED, OPEN, PRUNED, RUNNING, STOPPED, Trial
from pipeline.sweep.trials import PREEMPTED, USAGE, TrialProcess

# By a signal: after it had saved, before it could, or by a second one, which it takes for impatience. Whoever stops
# every process at once (a service, a queue of jobs) sends the first one itself, and this process the second.
ENDED = (PREEMPTED, -signal.SIGTERM, -signal.SIGINT, 128 + signal.SIGTERM, 128 + signal.SIGINT)
DISK_FULL = re.compile(r"\bdisk\b.*\bfull\b")

POLL_SECONDS = 0.1
SAME_FAILURES = 3  # In a row, of a kind that every other trial will meet too: then the sweep ends.
MOST_STRAY_STOPS = 3  # Of one trial, by signals that are not this process's.


class Search:
    """Runs the trials of a sweep, several at once where there are places for them.

    Attributes:
      stopped: whether it was asked to stop before it was done.
    """

    def __init__(self, directory, space, wanted, command, places, display, should_stop):
        """
        Args:
          directory: SweepDirectory, claimed.
          space: Space.
          wanted: number of trials in all.
          command: function (Trial, place) -> arguments of `python -m` that train it.
          places: how many trials run at once.
          display: of pipeline.sweep.leaderboard.
          should_stop: predicate, asked often.
        """
        self.directory, self.space, self.wanted, self.command = directory, space, wanted, command
        self.places, self.display, self.should_stop = places, display, should_stop
        self.stopped, self._error, self._alike, self._stray = False, None, [], {}
        self.metric = directory.settings["metric"]

    def run(self):
        """Runs what is not done yet, or until asked to stop; then trials that run save first.

        Raises:
          UsageError: three trials in a row could not be what they were asked for, for the same reason. They are tried
            again when the sweep is gone on with.
        """
        processes = []
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
        """Starts trials while there are places: those that were interrupted, in order, then new ones."""
        while len(processes) < self.places:
            trial = next_open(self.directory.trials, [process.trial for process in processes])
            if trial is None:
                if len(self.directory.trials) >= self.wanted:
                    return
                trial = self._propose()
            trial.status = RUNNING
            self.directory.save()
            place = min(set(range(self.places)) - {process.place for process in processes})
            processes.append(TrialProcess(trial, place, self.command(trial, place), self.directory.file(trial.name),
                                          self.directory.file(f"{trial.name}.log")))
            self.display.begin(trial)

    def _propose(self):
        settings, trials = self.directory.settings, self.directory.trials
        values = study.propose(self.space, trials, settings["search"], settings["flags"]["seed"], self.metric)
        trials.append(Trial(len(trials) + 1, values))
        return trials[-1]

    def _watch(self, process):
        """Takes note of new evaluations, and ends a trial that is hopeless."""
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
        """Keeps how a process ended."""
        trial = process.trial
        if trial.status == PRUNED:
            pass  # However fast it was: when the signal came is chance, that it was hopeless is not.
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
        """Reads the evaluations of a whole run once more: a rollback may have taken some back."""
        trial = process.trial
        trial.evaluations = []
        for evaluation in process.evaluations():
            self._note(process, evaluation)
        trial.status = FINISHED
        if trial.last.get(self.metric) is None:
            trial.status, trial.message = FAILED, f"its {self.metric} on the part held out is not a number"

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
            self._error = UsageError(f"{SAME_FAILURES} trials in a row ended alike: {trial.message}")
            for one in self._alike:
                one.status, one.message = STOPPED, None


def next_open(trials, running):
    """Returns the first trial that is to be gone on with and does not run, or None."""
    return next((trial for trial in trials if trial.status in OPEN and not any(trial is one for one in running)), None)


def unfinished(trials, wanted):
    """Tells whether there is something left to do."""
    return len(trials) < wanted or any(trial.status in OPEN for trial in trials)
