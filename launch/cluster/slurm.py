"""Slurm: the batch script to submit, and attempts as steps (srun) of an allocation."""
import dataclasses
import os
import re
import shlex
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from launch.cluster.agent import ENDED, STEP
from launch.cluster.failures import GOOD, PEER_LOST
from launch.cluster.guard import Guard
from launch.cluster.local_workers import KILL_SECONDS, POLL_SECONDS, Worker
from pipeline.errors import RunFailure, UsageError
from pipeline.templates import render

# The supervisor kills all as soon as one has failed. srun would send SIGTERM first, and take no order for seconds.
SRUN = "--kill-on-bad-exit=0 --ntasks-per-node=1"
ALWAYS = ("--label",)  # Puts the task's number, which is the worker's rank, before each line.
TASK_LINE = re.compile(r" *(\d+): ?(.*)")
REMOVED = re.compile(r"srun: error: \S+: tasks? ([\d,-]+): (.*)")
STOP_SECONDS = 10.0


def batch_script(*, name: str, least: int, most: int, command: Sequence[str], workdir: str, mirrorline: Sequence[str],
                 limits: Sequence[str], notice: float, options: Sequence[str], srun: str = SRUN) -> str:
    """Returns the text of a batch script.

    Args:
      name: of the job.
      least, most: numbers of workers, each on a node of its own.
      command: the trainer's command and flags.
      workdir: directory of the run, on a file system that all nodes share.
      mirrorline: the command that runs this program on the nodes.
      limits: flags of launch.
      notice: seconds before the time limit at which workers are asked to save.
      options, srun: more options of sbatch and of srun.

    Raises:
      UsageError: an invalid option or one that the script sets itself; a name of several lines.
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
class SlurmTask:
    """A task of the step: what `failures` and the supervisor need of a Worker."""

    rank: int
    code: int | None = None
    ended: float | None = None

    def stopped(self) -> bool:
        """False: its agent checks that."""
        return False


class SlurmWorkers:
    """The workers of one attempt: tasks of one srun. Has the interface of local_workers.LocalWorkers.

    Attributes:
      workers: list of SlurmTask, by rank.
    """

    def __init__(self, size: int, srun: Sequence[str], environment: Mapping[str, str], log: str, guard: Guard,
                 on_line: Callable[[Any, str], None]):
        """Starts `size` tasks by the command `srun`, as Worker does; `on_line` gets (rank, line), or ("srun", line)."""
        self.workers, self._on_line = [SlurmTask(rank) for rank in range(size)], on_line
        self._job, self._last = environment.get("SLURM_JOB_ID", ""), ""
        self._step: str | None = None
        self._srun = Worker(0, srun, environment, log, guard)

    @property
    def running(self) -> list[SlurmTask]:
        """Those that have not ended."""
        return [task for task in self.workers if task.code is None]

    def watch(self, seconds: float) -> None:
        """Passes on their output and notices who has ended, for that long."""
        time.sleep(min(seconds, POLL_SECONDS))
        self._read()
        if self._srun.poll() is not None:
            self._read()
            self._end_all()

    def _read(self) -> None:
        while not self._srun.closed and (lines := self._srun.read()):
            for line in lines:
                self._take(line)

    def _take(self, line: str) -> None:
        of_task, removed = TASK_LINE.fullmatch(line), REMOVED.match(line)
        if not of_task or int(of_task[1]) >= len(self.workers):
            self._last = line
            self._on_line("srun", line)
            # Tasks that srun removes because one has failed are not informative.
            if removed and not any(task.code not in (None, *GOOD) for task in self.workers):
                for rank in expand_ranks(removed[1]):
                    self._end(rank, ending_code(removed[2]))
            return
        rank, text = int(of_task[1]), of_task[2]
        if text.startswith(ENDED):
            self._end(rank, int(text.removeprefix(ENDED)))
        elif text.startswith(STEP):
            self._step = text.removeprefix(STEP)
        else:
            self._on_line(rank, text)

    def _end(self, rank: int, code: int) -> None:
        if rank < len(self.workers) and self.workers[rank].code is None:
            self.workers[rank].code, self.workers[rank].ended = code, time.monotonic()

    def _end_all(self) -> None:
        """Ends the tasks with srun."""
        if not any(task.code not in (None, *GOOD) for task in self.workers) and self._srun.code:
            for task in self.running:  # It could not start them, or was itself killed.
                self._on_line(task.rank, self._last or "srun reported nothing")
                self._end(task.rank, self._srun.code)
        for task in self.running:
            self._end(task.rank, PEER_LOST if self._srun.code else 0)

    def ask(self) -> None:
        """Asks all to stop, through their agents: srun itself would kill them."""
        signal_to(self._job, "USR1")

    def kill(self) -> None:
        """Kills the step and waits for the end of srun.

        Raises:
          RunFailure: it does not end.
        """
        deadline = time.monotonic() + KILL_SECONDS
        # Where all trainers have succeeded, srun is about to end.
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

    def stop(self, grace: float, hurry: Callable[[], bool] = lambda: False) -> None:
        """Kills all at once: after a failure the others have nothing to save. Arguments as of LocalWorkers."""
        self.kill()

    def close(self) -> None:
        """Passes on the last lines."""
        self._read()
        self._srun.close()


class SlurmStart:
    """Starts the workers of an attempt as a step of the allocation of this process."""

    def __init__(self, command: Sequence[str], workdir: str, guard: Guard, options: str):
        """
        Args:
          command: the agent of every worker.
          workdir: directory of the run; srun's own output is in WORKDIR/workers/srun.log.
          guard: kills what srun leaves.
          options: of srun, as written in a shell.

        Raises:
          UsageError: this process is not in an allocation.
        """
        if not os.environ.get("SLURM_JOB_ID"):
            raise UsageError("--srun works inside an allocation of Slurm, in a batch script or after salloc; "
                             "--engine=slurm submits one")
        self._command, self._workdir, self._guard, self._options = command, workdir, guard, shlex.split(options)

    def __call__(self, size: int, attempt: int, on_line: Callable[[Any, str], None]) -> SlurmWorkers:
        """Starts `size` workers.

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


def signal_to(job_or_step: str, name: str) -> None:
    """Sends a signal to all processes of a step, or of a job's steps."""
    subprocess.run(["scancel", "--quiet", f"--signal={name}", job_or_step], check=False, stdin=subprocess.DEVNULL)


def expand_ranks(text: str) -> list[int]:
    """Returns the numbers of a list such as 0,2-4."""
    ranks: list[int] = []
    for part in text.split(","):
        first, _, last = part.partition("-")
        ranks += range(int(first), int(last or first) + 1)
    return ranks


def ending_code(text: str) -> int:
    """Returns the exit code, negative for a signal, that srun describes in words."""
    code = re.search(r"exit code (\d+)", text)
    if code:
        return int(code[1])
    return {"Terminated": -15, "Aborted": -6, "Segmentation fault": -11}.get(text.split(" (")[0].strip(), -9)
