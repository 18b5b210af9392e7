"""What an engine starts for each worker: finds out where the others are, starts the trainer, passes on signals.

It does not import TensorFlow, so it responds whatever the trainer does. The engine identifies the worker by its
variables (see adapters); the trainer gets TF_CONFIG alone.
"""
import contextlib
import datetime
import os
import signal
import socket
import sys
import time
import types
from collections.abc import Mapping, Sequence

from launch.cluster import failures
from launch.cluster.adapters import from_environment
from launch.cluster.guard import Guard
from launch.cluster.local_workers import LocalWorkers
from launch.cluster.run_records import RunRecords
from launch.cluster.supervisor import Budget, SignalCounter
from pipeline.distributed.cluster import Cluster
from pipeline.errors import RunFailure
from pipeline.monitoring.metrics_log import JsonLines, read_records
from pipeline.processes import child_environment
from pipeline.training.preemption import NOTICES

REQUESTS = (signal.SIGTERM, *NOTICES)
POLL_SECONDS, NAME_PAUSE, NAME_SECONDS, LINGER_SECONDS = 0.05, 0.5, 120.0, 4.0
HOLD_SECONDS = 0.5
STEP = "mirrorline agent: this is step "  # Followed by Slurm's name of it.
ENDED = "mirrorline agent: the trainer ended with "  # Followed by its exit code, negative for a signal.
INTERRUPTED = (-signal.SIGINT, 128 + signal.SIGINT)  # How Python ends on SIGINT without a handler of the trainer.
GIVEN_UP = 70  # Another attempt is not worth it (EX_SOFTWARE of sysexits.h).
RECORD = os.path.join("workers", "attempts.jsonl")


class Requests(SignalCounter):
    """Counts signals that ask to stop, also those by which engines announce the time limit.

    Slurm sends a signal to every process of a step. A trainer takes a second signal as the order to end at once, so in
    a step it ignores those that its agent passes on, and the agent ignores the one that it passes on (SIGINT).

    Attributes:
      ignored: signals that the trainer does not receive.
      passed_on: the signal that the trainer gets instead.
    """

    def __init__(self, in_step: bool):
        super().__init__()
        self._in_step, self._due = in_step, 0.0
        self.ignored = set(REQUESTS) if in_step else set(NOTICES)
        self.passed_on = signal.SIGINT if in_step else signal.SIGTERM

    def _take(self, number, _):
        self.count += number in REQUESTS or not self._in_step
        if self.count == 1:
            # srun sends SIGTERM when another worker has failed: a trainer that handles it then notices only seconds
            # later that it has lost a peer.
            self._due = time.monotonic() + (HOLD_SECONDS if self._in_step and number == signal.SIGTERM else 0.0)

    @property
    def due(self) -> bool:
        """Whether it is time to pass a request on."""
        return self.count > 0 and time.monotonic() >= self._due


def run(command: Sequence[str], workdir: str, max_restarts: int, stopped_timeout: float,
        environment: Mapping[str, str] | None = None) -> int:
    """Runs one worker; returns its exit code: that of the trainer, or 128 + the signal that ended it.

    In a step of Slurm a trainer that was stopped and has saved (75) counts as 0: an srun that kills all when one fails
    would otherwise kill the chief while it is saving. The line ENDED tells the supervisor.

    Args:
      command: the trainer.
      workdir: directory of the run, the same folder for all workers.
      max_restarts: restarts without a new checkpoint, where only the engine counts them.
      stopped_timeout: seconds that the trainer may be stopped (SIGSTOP).
      environment: default os.environ.

    Raises:
      UsageError: an engine's variables cannot be read.
      RunFailure: this machine cannot start the trainer.
    """
    environment = dict(os.environ if environment is None else environment)
    cluster = from_environment(environment) or Cluster(("localhost:0",), 0,
                                                       int(environment.get("MIRRORLINE_ATTEMPT") or 0))
    in_step = "SLURM_STEP_ID" in environment
    if in_step:
        _print(f"{STEP}{environment.get('SLURM_JOB_ID')}.{environment['SLURM_STEP_ID']}")
    with Requests(in_step) as requests, contextlib.closing(Guard()) as guard:
        if "JOB_COMPLETION_INDEX" in environment and cluster.rank == 0:
            reason = refuse(workdir, cluster.attempt, max_restarts)
            if reason:
                _print(f"mirrorline launch: {reason}")
                return GIVEN_UP
        problem = wait_for_name(cluster.hosts[cluster.rank], requests)
        if problem:
            _print(f"mirrorline launch: {problem}")
            return failures.PREEMPTED if requests.count else failures.PEER_LOST
        signal.pthread_sigmask(signal.SIG_BLOCK, requests.ignored)  # The new process inherits it.
        worker = start(command, workdir, cluster, environment, guard)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, requests.ignored)
        code = watch(worker, requests, stopped_timeout)
        if in_step and requests.count and cluster.rank and code in INTERRUPTED:
            code = failures.PREEMPTED  # The chief's stop had ended its training before the signal came.
        _print(f"{ENDED}{code}")
        if code not in failures.GOOD and in_step:
            wait_for_supervisor(requests)
    if code == failures.PREEMPTED and in_step:
        return 0
    return code if code >= 0 else 128 - code


def wait_for_supervisor(requests: Requests) -> None:
    """Waits a moment after a failure, in which the supervisor kills all tasks at once.

    An srun that kills all when one fails (--kill-on-bad-exit) does so as this agent ends, possibly before a task whose
    trainer failed first has reported it. It also sends SIGTERM first, and accepts no other request meanwhile.
    """
    deadline = time.monotonic() + LINGER_SECONDS
    while time.monotonic() < deadline and not requests.count:
        time.sleep(POLL_SECONDS)


def start(command: Sequence[str], workdir: str, cluster: Cluster, environment: Mapping[str, str], guard: Guard
          ) -> LocalWorkers:
    """Starts the trainer of this worker, with TF_CONFIG if there are others and without the engine's variables."""
    folder, size = os.path.join(workdir, "workers"), len(cluster.addresses)
    values = {**child_environment(environment), "MIRRORLINE_ATTEMPT": str(cluster.attempt), "PYTHONUNBUFFERED": "1"}
    if size > 1:
        values["TF_CONFIG"] = cluster.tf_config
    try:
        os.makedirs(folder, exist_ok=True)
        workers = LocalWorkers([command], [values], [os.path.join(folder, f"{cluster.rank}.log")], guard,
                               lambda _, line: _print(line))
    except OSError as error:
        raise RunFailure(f"worker {cluster.rank} cannot be started: {error}") from error
    when = datetime.datetime.now().astimezone().isoformat(timespec="seconds")
    worker = workers.workers[0]
    worker.log_line(f"--- attempt {cluster.attempt}, worker {cluster.rank} of {size}, process {worker.pid}, "
                    f"{socket.gethostname()}, {when}")
    return workers


def watch(workers: LocalWorkers, requests: Requests, stopped_timeout: float) -> int:
    """Passes on the trainer's output until it ends; returns its exit code, negative for a signal."""
    asked, stopped, checked, worker = False, 0.0, time.monotonic(), workers.workers[0]
    try:
        while workers.running:
            if requests.due and not asked and worker.poll() is None:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(worker.pid, requests.passed_on)
                asked = True
            workers.watch(POLL_SECONDS)
            # Bounded, since the clock continues while the whole machine is suspended.
            passed, checked = min(time.monotonic() - checked, 2 * POLL_SECONDS), time.monotonic()
            stopped = stopped + passed if worker.stopped() else 0.0
            if stopped > stopped_timeout:
                _print(f"mirrorline launch: the trainer was stopped (SIGSTOP) for {stopped_timeout:g} s")
                workers.kill()
    finally:
        workers.kill()
        workers.close()
    return worker.code or 0


def refuse(workdir: str, attempt: int, max_restarts: int) -> str | None:
    """Records that an attempt begins; returns the reason why it should not, or None.

    For engines that only count: the supervisor's rules, applied to what each attempt found when it began. To be called
    by the chief's agent, before the trainer.

    Args:
      workdir: of the run.
      attempt: from 0, which begins a new series.
      max_restarts: without a new checkpoint.
    """
    records = RunRecords(workdir)
    path, steps = records.file(RECORD), records.last_steps()
    os.makedirs(os.path.dirname(path), exist_ok=True)
    found = {"attempt": attempt, "started": time.time(), "saved": records.saved_step(),
             "step": steps[-1]["step"] if steps else 0,
             "starts": sum(r["event"] == "start" for r in records.launches())}
    series: list[dict] = []
    for record in [*read_records(path), found]:
        series = [record] if record["attempt"] == 0 else [*series, record]
    with contextlib.closing(JsonLines(path)) as file:
        file.append([found])
        file.sync()
    budget, reason = Budget(max_restarts, series[0]["saved"]), None
    for before, now in zip(series, series[1:], strict=False):
        begun = now["starts"] if now["starts"] > before["starts"] else None
        reason = budget.refuse(types.SimpleNamespace(step=now["step"], begun=begun), now["saved"])
    return reason


def wait_for_name(host: str, requests: SignalCounter, seconds: float = NAME_SECONDS) -> str | None:
    """Waits until this worker's host name resolves; returns the problem otherwise.

    A cluster's name service learns a worker's name some seconds after the worker was started.
    """
    deadline = time.monotonic() + seconds
    while True:
        try:
            socket.getaddrinfo(host, None)
            return None
        except OSError as error:
            if requests.count or time.monotonic() > deadline:
                return f"the name of this worker, {host}, is not known here ({error.strerror or error})"
        time.sleep(NAME_PAUSE)


def _print(text: str) -> None:
    with contextlib.suppress(OSError):  # Nobody reads it any more; the log has the trainer's lines.
        sys.stdout.write(f"{text}\n")
        sys.stdout.flush()
