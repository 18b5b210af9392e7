"""What an engine starts once a worker: it works out where the others are, starts the trainer, and passes on signals.

It does not import TensorFlow, so it answers whatever the trainer does. The engine tells it by variables who it is (see
adapters); the trainer is told by TF_CONFIG alone.
"""
import contextlib
import datetime
import os
import signal
import socket
import sys
import time
import types

from launch.cluster import failures
from launch.cluster.adapters import from_environment
from launch.cluster.guard import Guard
from launch.cluster.local_workers import LocalWorkers
from launch.cluster.run_records import RunRecords
from launch.cluster.supervisor import Budget
from pipeline.child_environment import child_environment
from pipeline.distributed.cluster import Cluster
from pipeline.errors import RunFailure
from pipeline.monitoring.metrics_log import JsonLines, read_records
from pipeline.training.preemption import NOTICES, heard

ASKING = (signal.SIGTERM, *NOTICES)
POLL_SECONDS, NAME_PAUSE, NAME_SECONDS, LINGER_SECONDS = 0.05, 0.5, 120.0, 4.0
HOLD_SECONDS = 0.5
STEP = "mirrorline agent: this is step "  # Followed by what Slurm calls it.
ENDED = "mirrorline agent: the trainer ended with "  # Followed by its exit code, negative for a signal.
INTERRUPTED = (-signal.SIGINT, 128 + signal.SIGINT)  # How Python ends on SIGINT once no handler of the trainer is left.
GIVEN_UP = 70  # Another attempt is not worth it (EX_SOFTWARE of sysexits.h).
RECORD = os.path.join("workers", "attempts.jsonl")


class Requests:
    """Signals that ask to stop: also those by which engines tell of the time limit. A context manager.

    Slurm gives a signal to every process of a step. A trainer takes a second one for an order to leave at once, so in a
    step it does not hear those that its agent passes on, and the agent leaves to it the one that it does hear (SIGINT).

    Attributes:
      count: how many came.
      deaf: set of the signals that the trainer is not to hear.
      passed_on: the signal by which the trainer is asked.
    """

    def __init__(self, in_step):
        """Args: in_step: whether this is a step of Slurm."""
        self.count, self._in_step, self._due = 0, in_step, 0.0
        self.deaf = set(ASKING) if in_step else set(NOTICES)
        self.passed_on = signal.SIGINT if in_step else signal.SIGTERM

    def _take(self, number, _):
        self.count += number in ASKING or not self._in_step
        if self.count == 1:
            # srun asks so when another worker has failed: a trainer that also sees to a request then finds out seconds
            # later that it has lost a peer.
            self._due = time.monotonic() + (HOLD_SECONDS if self._in_step and number == signal.SIGTERM else 0.0)

    @property
    def due(self):
        """Whether it is time to pass it on."""
        return self.count > 0 and time.monotonic() >= self._due

    def __enter__(self):
        self._before = {number: signal.signal(number, self._take) for number in heard()}
        return self

    def __exit__(self, *exception):
        for number, handler in self._before.items():
            signal.signal(number, handler)


def run(command, workdir, max_restarts, stopped_timeout, environment=None):
    """Runs one worker; returns its exit code: that of the trainer, or 128 + the signal that ended it.

    In a step of Slurm a trainer that was stopped and has saved (75) counts as 0: srun, where it kills all when one
    fails, would otherwise kill the chief while it still saves. The line ENDED tells the supervisor.

    Args:
      command: list of str, the trainer.
      workdir: directory of the run, the same folder for all workers.
      max_restarts: restarts without a new checkpoint, where no supervisor counts them but the engine.
      stopped_timeout: seconds that the trainer may be stopped (SIGSTOP).
      environment: {name: value}; default os.environ.

    Raises:
      UsageError: an engine's variables that cannot be read.
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
            why = refuse(workdir, cluster.attempt, max_restarts)
            if why:
                _print(f"mirrorline launch: {why}")
                return GIVEN_UP
        unknown = wait_for_name(cluster.hosts[cluster.rank], requests)
        if unknown:
            _print(f"mirrorline launch: {unknown}")
            return failures.PREEMPTED if requests.count else failures.PEER_LOST
        signal.pthread_sigmask(signal.SIG_BLOCK, requests.deaf)  # The new process inherits it.
        worker = start(command, workdir, cluster, environment, guard)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, requests.deaf)
        code = watch(worker, requests, stopped_timeout)
        if in_step and requests.count and cluster.rank and code in INTERRUPTED:
            code = failures.PREEMPTED  # The chief's stop had ended its training before the signal came.
        _print(f"{ENDED}{code}")
        if code not in failures.GOOD and in_step:
            leave_the_end_to_the_supervisor(requests)
    if code == failures.PREEMPTED and in_step:
        return 0
    return code if code >= 0 else 128 - code


def leave_the_end_to_the_supervisor(requests):
    """Waits a moment after a failure, in which the supervisor kills all tasks at once.

    Where srun is to kill all when one fails (--kill-on-bad-exit) it takes the others away as this agent ends: also one
    whose trainer failed first and that has not said so yet. And it asks before it kills, and takes no other order then.
    """
    deadline = time.monotonic() + LINGER_SECONDS
    while time.monotonic() < deadline and not requests.count:
        time.sleep(POLL_SECONDS)


def start(command, workdir, cluster, environment, guard):
    """Starts the trainer of this worker; returns LocalWorkers, which are this one."""
    folder = os.path.join(workdir, "workers")
    values = trainer_environment(environment, cluster)
    try:
        os.makedirs(folder, exist_ok=True)
        workers = LocalWorkers([command], [values], [os.path.join(folder, f"{cluster.rank}.log")], guard,
                               lambda _, line: _print(line))
    except OSError as error:
        raise RunFailure(f"worker {cluster.rank} cannot be started: {error}") from error
    when = datetime.datetime.now().astimezone().isoformat(timespec="seconds")
    worker = workers.workers[0]
    worker.log_line(f"--- attempt {cluster.attempt}, worker {cluster.rank} of {len(cluster.addresses)}, process "
                    f"{worker.pid}, {socket.gethostname()}, {when}")
    return workers


def trainer_environment(environment, cluster):
    """Returns the variables of the trainer: TF_CONFIG where there are several workers, and nothing of the engine's."""
    values = {**child_environment(environment), "MIRRORLINE_ATTEMPT": str(cluster.attempt), "PYTHONUNBUFFERED": "1"}
    if len(cluster.addresses) > 1:
        values["TF_CONFIG"] = cluster.tf_config
    return values


def watch(workers, requests, stopped_timeout):
    """Hands on what the trainer writes until it ends; returns its exit code, that of a signal being negative."""
    asked, stopped, looked = False, 0.0, time.monotonic()
    try:
        while workers.running:
            if requests.due and not asked and workers.workers[0].poll() is None:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(workers.workers[0].pid, requests.passed_on)
                asked = True
            workers.watch(POLL_SECONDS)
            # The clock goes on while the whole machine sleeps.
            passed, looked = min(time.monotonic() - looked, 2 * POLL_SECONDS), time.monotonic()
            stopped = stopped + passed if workers.workers[0].stopped() else 0.0
            if stopped > stopped_timeout:
                _print(f"mirrorline launch: the trainer was stopped (SIGSTOP) for {stopped_timeout:g} s")
                workers.kill()
    finally:
        workers.kill()
        workers.close()
    return workers.workers[0].code


def refuse(workdir, attempt, max_restarts):
    """Notes that an attempt begins; returns why it should not, None where it may.

    For engines that only count: the rules are those of the supervisor, applied to what each attempt found when it
    began. To be called by the chief's agent, before the trainer.

    Args:
      workdir: directory of the run.
      attempt: number of the attempt, from 0; with 0 another series begins.
      max_restarts: restarts without a new checkpoint.
    """
    records = RunRecords(workdir)
    path, steps = records.file(RECORD), records.last_steps()
    os.makedirs(os.path.dirname(path), exist_ok=True)
    found = {"attempt": attempt, "started": time.time(), "saved": records.saved_step(),
             "step": steps[-1]["step"] if steps else 0,
             "starts": sum(r["event"] == "start" for r in records.launches())}
    series = []
    for record in [*read_records(path), found]:
        series = [record] if record["attempt"] == 0 else [*series, record]
    with contextlib.closing(JsonLines(path)) as file:
        file.append([found])
        file.sync()
    budget, why = Budget(max_restarts, series[0]["saved"]), None
    for before, now in zip(series, series[1:], strict=False):
        begun = now["starts"] if now["starts"] > before["starts"] else None
        why = budget.refuse(types.SimpleNamespace(step=now["step"], begun=begun), now["saved"])
    return why


def wait_for_name(host, requests, seconds=NAME_SECONDS):
    """Waits until the name by which the others call this worker is known; returns what is wrong, None when it is.

    A cluster's name service learns of a worker's name some seconds after the worker was started.
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


def _print(text):
    with contextlib.suppress(OSError):  # Nobody listens any more; the log has the trainer's lines.
        sys.stdout.write(f"{text}\n")
        sys.stdout.flush()
