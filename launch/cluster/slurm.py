"""Slurm: the batch script that is submitted, and attempts as steps (srun) of an allocation."""
import dataclasses
import os
import re
import shlex
import subprocess
import time

from launch.cluster.agent import ENDED, STEP
from launch.cluster.failures import GOOD, PEER_LOST
from launch.cluster.local_workers import KILL_SECONDS, POLL_SECONDS, Worker
from pipeline.errors import RunFailure, UsageError
from pipeline.templates import render

# The supervisor kills all as soon as one has failed. srun would ask first, and takes seconds in which it hears nothing.
SRUN = "--kill-on-bad-exit=0 --ntasks-per-node=1"
# --label puts the task's number before each line, which is how its worker is known.
ALWAYS = ("--label",)
SPOKEN = re.compile(r" *(\d+): ?(.*)")
TAKEN_AWAY = re.compile(r"srun: error: \S+: tasks? ([\d,-]+): (.*)")
STOP_SECONDS = 10.0


def batch_script(*, name, least, most, command, workdir, mirrorline, limits, notice, options, srun=SRUN):
    """Returns the text of a batch script.

    Args:
      name: of the job.
      least, most: numbers of workers, each on a node of its own.
      command: list of str, the trainer's command and flags.
      workdir: directory of the run, on a file system that all nodes share.
      mirrorline: list of str, what runs this program on the nodes.
      limits: list of str, flags of launch.
      notice: seconds before the time limit at which workers are asked to save.
      options: list of str, more options of sbatch.
      srun: options of srun.

    Raises:
      UsageError: an option that is none, or one that the script sets itself; a name of several lines.
    """
    if not name.isprintable():
        raise UsageError(f"--name={name!r}: give a name on one line, without control characters")
    for option in options:
        if not re.fullmatch(r"--?[A-Za-z][^\r\n]*", option):
            raise UsageError(f"--submit has '{option}', which is no option of sbatch, such as --time=8:00:00")
        if re.match(r"(--(nodes|ntasks-per-node|signal|open-mode|job-name)(=|$|\s))|-[NJ]", option):
            raise UsageError(f"--submit has {option}, which the script sets itself; change it with "
                             "--workers, --notice or --name, or in what --print prints")
    elastic = ["--no-kill"] if least < most else []
    return render(
        __package__, "slurm_batch.sh", name=name, nodes=most if least == most else f"{least}-{most}",
        directives=[*elastic, *options], notice=f"{notice:g}", workdir=workdir, mirrorline=mirrorline,
        workers=most if least == most else f"{least}..{most}", limits=limits, srun=srun, command=command)


@dataclasses.dataclass
class Task:
    """A task of the step, with what `failures` and the supervisor look at of a worker.

    Attributes:
      rank: int.
      code: exit code, None while it runs, as far as known.
      ended: time.monotonic() of when that was heard.
    """

    rank: int
    code: int | None = None
    ended: float | None = None

    def stopped(self):
        """False: whether it is stopped its agent sees."""
        return False


class SlurmWorkers:
    """The workers of one attempt: tasks of one srun. Has what the supervisor uses of local_workers.LocalWorkers.

    Attributes:
      workers: list of Task, by rank.
    """

    def __init__(self, size, srun, environment, log, guard, on_line):
        """Starts them.

        Args:
          size: number of tasks.
          srun: list of str, the command.
          environment: {name: value}, all of it.
          log: path of the file that srun's own words are added to.
          guard: Guard.
          on_line: called with (rank, line) of everything that the workers write; "srun" in place of the rank for srun.
        """
        self.workers, self._on_line = [Task(rank) for rank in range(size)], on_line
        self._job, self._step, self._last = environment.get("SLURM_JOB_ID", ""), None, ""
        self._srun = Worker(0, srun, environment, log, guard)

    @property
    def running(self):
        """Those that have not ended."""
        return [task for task in self.workers if task.code is None]

    def watch(self, seconds):
        """Hands on what they write and sees who has ended, for that long."""
        time.sleep(min(seconds, POLL_SECONDS))
        self._hear()
        if self._srun.poll() is not None:
            self._hear()
            self._conclude()

    def _hear(self):
        while not self._srun.silent and (lines := self._srun.read()):
            for line in lines:
                self._take(line)

    def _take(self, line):
        spoken, taken = SPOKEN.fullmatch(line), TAKEN_AWAY.match(line)
        if not spoken or int(spoken[1]) >= len(self.workers):
            self._last = line
            self._on_line("srun", line)
            # Of tasks that srun takes away because one has failed nothing is learned.
            if taken and not any(task.code not in (None, *GOOD) for task in self.workers):
                for rank in expand_ranks(taken[1]):
                    self._end(rank, ending_code(taken[2]))
            return
        rank, text = int(spoken[1]), spoken[2]
        if text.startswith(ENDED):
            self._end(rank, int(text.removeprefix(ENDED)))
        elif text.startswith(STEP):
            self._step = text.removeprefix(STEP)
        else:
            self._on_line(rank, text)

    def _end(self, rank, code):
        if rank < len(self.workers) and self.workers[rank].code is None:
            self.workers[rank].code, self.workers[rank].ended = code, time.monotonic()

    def _conclude(self):
        """srun has ended, so all have."""
        if not any(task.code not in (None, *GOOD) for task in self.workers) and self._srun.code:
            for task in self.running:  # It could not start them, or was itself taken away.
                self._on_line(task.rank, self._last or "srun said nothing")
                self._end(task.rank, self._srun.code)
        for task in self.running:
            self._end(task.rank, PEER_LOST if self._srun.code else 0)

    def ask(self):
        """Asks all to stop: their agents, for srun itself would kill them."""
        signal_to(self._job, "USR1")

    def kill(self):
        """Takes the step away, and waits until srun is gone.

        Raises:
          RunFailure: it does not go.
        """
        deadline = time.monotonic() + KILL_SECONDS
        # Where all trainers have ended well, srun is about to.
        asked = time.monotonic() if all(task.code in GOOD for task in self.workers) else float("-inf")
        while self._srun.poll() is None:
            if time.monotonic() > deadline:
                self._srun.kill()
                raise RunFailure("srun does not end its step; look at what its tasks wait for, and cancel the job "
                                 f"(scancel {self._job})")
            if time.monotonic() > asked + STOP_SECONDS:
                if self._step:
                    signal_to(self._step, "KILL")
                else:  # No task runs yet. On SIGTERM srun gives up, or asks tasks and waits for them.
                    self._srun.ask()
                asked = time.monotonic()
            self.watch(POLL_SECONDS)
        self.watch(0)

    def stop(self, grace, hurry=lambda: False):
        """Kills all at once: when one has failed the others have nothing to save. Arguments as in LocalWorkers."""
        self.kill()

    def close(self):
        """Hands on the last words."""
        self._hear()
        self._srun.close()


class SlurmStart:
    """Starts the workers of an attempt as a step of the allocation around this process."""

    def __init__(self, command, workdir, guard, options):
        """
        Args:
          command: list of str, the agent, the same for every worker.
          workdir: directory of the run; what srun itself says is in WORKDIR/workers/srun.log.
          guard: Guard.
          options: options of srun, as one would write them in a shell.

        Raises:
          UsageError: this process is not in an allocation.
        """
        if not os.environ.get("SLURM_JOB_ID"):
            raise UsageError("--srun works inside an allocation of Slurm, in a batch script or after salloc; "
                             "--engine=slurm submits one")
        self._command, self._workdir, self._guard, self._options = command, workdir, guard, shlex.split(options)

    def __call__(self, size, attempt, on_line):
        """Starts `size` workers; returns SlurmWorkers.

        Raises:
          RunFailure: there is no srun.
        """
        srun = ["srun", f"--nodes={size}", f"--ntasks={size}", *self._options, *ALWAYS, *self._command]
        try:
            os.makedirs(os.path.join(self._workdir, "workers"), exist_ok=True)
            return SlurmWorkers(size, srun, {**os.environ, "MIRRORLINE_ATTEMPT": str(attempt)},
                                os.path.join(self._workdir, "workers", "srun.log"), self._guard, on_line)
        except OSError as error:
            raise RunFailure(f"srun cannot be started: {error}") from error


def signal_to(job_or_step, name):
    """Sends a signal to all processes of a step, or of a job's steps."""
    subprocess.run(["scancel", "--quiet", f"--signal={name}", job_or_step], check=False, stdin=subprocess.DEVNULL)


def expand_ranks(text):
    """Returns the numbers of a list such as 0,2-4."""
    ranks = []
    for part in text.split(","):
        first, _, last = part.partition("-")
        ranks += range(int(first), int(last or first) + 1)
    return ranks


def ending_code(text):
    """Returns the exit code that srun tells of in words, that of a signal being negative."""
    code = re.search(r"exit code (\d+)", text)
    if code:
        return int(code[1])
    return {"Terminated": -15, "Aborted": -6, "Segmentation fault": -11}.get(text.split(" (")[0].strip(), -9)
