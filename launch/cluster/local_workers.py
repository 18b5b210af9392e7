"""The workers of one attempt as processes of this machine: started together, watched, stopped; none outlives this one.

Each worker leads a session and a process group of its own, so that its children end with it and Ctrl-C is for the
supervisor to deal with. That none is left when the supervisor is killed is held twice: the kernel kills a worker whose
parent is gone, and a Guard, which notices it too, kills what the worker had started.
"""
import datetime
import os
import selectors
import signal
import subprocess
import time

from launch.cluster.guard import end_with, kill_group
from launch.cluster.ports import LOOPBACK, free_ports
from pipeline.child_environment import child_environment
from pipeline.distributed.cluster import Cluster
from pipeline.errors import RunFailure
from pipeline.files import no_room

MOST_READ = 2**16
POLL_SECONDS = 0.02
KILL_SECONDS, LAST_WORDS = 60.0, 2.0
LONGEST_LINE = 2**14  # Bytes; what comes without an end of line is shown in parts.


class Worker:
    """One worker's process; what it says is added to its log and handed on in lines.

    Attributes:
      rank: int.
      code: exit code, the negative number of a signal that ended it; None while it runs.
      ended: time.monotonic() of when that was seen.
      pipe: descriptor that its output is read from.
      silent: whether nobody can write there any more.
    """

    def __init__(self, rank, command, environment, log, guard):
        """
        Args:
          rank: int.
          command: list of str.
          environment: {name: value}, all of it.
          log: path of the file that its output is added to.
          guard: Guard.
        """
        self.rank, self.code, self.ended, self.silent = rank, None, None, False
        self._guard, self._rest = guard, b""
        self._log = open(log, "ab", buffering=0)  # noqa: SIM115
        self.pipe, output = os.pipe()
        os.set_blocking(self.pipe, False)
        try:
            self._process = subprocess.Popen(command, env=environment, stdin=subprocess.DEVNULL, stdout=output,
                                             stderr=output, start_new_session=True, preexec_fn=end_with(os.getpid()))
        except BaseException:
            self._log.close()
            os.close(self.pipe)
            raise
        finally:
            os.close(output)
        guard.add(self.pid)

    @property
    def pid(self):
        """Number of its process, and of the group that it leads."""
        return self._process.pid

    def poll(self):
        """Sees whether it has ended; then its children are killed. Returns the exit code, or None while it runs."""
        if self.code is not None:
            return self.code
        # Looked at before it is reaped: until then its number is not given to another process.
        if os.waitid(os.P_PID, self.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT):
            kill_group(self.pid)
            self._guard.remove(self.pid)
            self.code, self.ended = self._process.wait(), time.monotonic()
        return self.code

    def stopped(self):
        """Tells whether it is stopped, as by SIGSTOP."""
        try:
            with open(f"/proc/{self.pid}/stat", encoding="ascii", errors="replace") as file:
                return self.code is None and file.read().rpartition(")")[2].split()[0] == "T"
        except (OSError, IndexError):
            return False

    def ask(self):
        """Asks it to stop (SIGTERM)."""
        if self.poll() is None:
            self._process.send_signal(signal.SIGTERM)

    def kill(self):
        """Kills it and its children."""
        if self.poll() is None:
            kill_group(self.pid)

    def log_line(self, text):
        """Adds a line to its log."""
        self._write(f"{text}\n".encode())

    def read(self):
        """Returns the lines that it has written since, decoded; [] where there is nothing to read."""
        try:
            data = os.read(self.pipe, MOST_READ)
        except BlockingIOError:
            return []
        self.silent = not data
        self._write(data)
        *lines, self._rest = (self._rest + data).split(b"\n")
        if self._rest and (self.silent or len(self._rest) > LONGEST_LINE):
            lines, self._rest = [*lines, self._rest], b""
        # A bar that moves within its line is shown as it was last.
        return [line.rstrip(b"\r").rpartition(b"\r")[2].decode(errors="replace") for line in lines]

    def close(self):
        """Closes its log and pipe."""
        self._log.close()
        os.close(self.pipe)

    def _write(self, data):
        try:
            self._log.write(data)
        except OSError as error:
            if not no_room(error):
                raise
            # The run itself waits for room; a log is not worth ending it.


class LocalWorkers:
    """All workers of one attempt.

    Attributes:
      workers: list of Worker, by rank.
    """

    def __init__(self, commands, environments, logs, guard, on_line):
        """Starts them.

        Args:
          commands, environments, logs: of each worker, see Worker.
          guard: Guard.
          on_line: called with (rank, line) of everything that they write.
        """
        self.workers, self._on_line, self._selector = [], on_line, selectors.DefaultSelector()
        try:
            for rank, parts in enumerate(zip(commands, environments, logs, strict=True)):
                worker = Worker(rank, *parts, guard)
                self.workers.append(worker)
                self._selector.register(worker.pipe, selectors.EVENT_READ, worker)
        except BaseException:
            self.kill()
            self.close()
            raise

    @property
    def running(self):
        """Those that have not ended."""
        return [worker for worker in self.workers if worker.code is None]

    def watch(self, seconds):
        """Hands on what they write and sees who has ended, for that long or until one writes."""
        if self._selector.get_map():
            for key, _ in self._selector.select(seconds):
                self._hear(key.data)
        else:
            time.sleep(seconds)
        for worker in self.running:
            worker.poll()

    def _hear(self, worker):
        for line in worker.read():
            self._on_line(worker.rank, line)
        if worker.silent:
            self._selector.unregister(worker.pipe)

    def ask(self):
        """Asks all to stop, once each."""
        for worker in self.running:
            worker.ask()

    def kill(self):
        """Kills all that run, and waits until they are gone.

        Raises:
          RunFailure: the kernel does not let one of them end, as where a file system hangs.
        """
        deadline = time.monotonic() + KILL_SECONDS
        for worker in self.running:
            worker.kill()
        while self.running:
            self.watch(POLL_SECONDS)
            if self.running and time.monotonic() > deadline:
                raise RunFailure(f"worker {self.running[0].rank}, process {self.running[0].pid}, was killed and does "
                                 "not end: look at what it waits for (ps -o stat,wchan), and end it")

    def stop(self, grace, hurry=lambda: False):
        """Ends all: SIGTERM, and SIGKILL for those that run `grace` seconds later, or once `hurry()` is true.

        One that is stopped (SIGSTOP) cannot hear the first, so it is killed at once.
        """
        deadline = time.monotonic() + grace
        if not hurry():
            self.ask()
        while self.running and time.monotonic() < deadline and not hurry():
            for worker in self.running:
                if worker.stopped():
                    worker.kill()
            self.watch(POLL_SECONDS)
        self.kill()

    def close(self):
        """Hands on their last words; to be called when all have ended."""
        deadline = time.monotonic() + LAST_WORDS  # What has left a worker's group may write on.
        for key in list(self._selector.get_map().values()):
            while time.monotonic() < deadline and key.fd in self._selector.get_map() and self._ready(key.data):
                self._hear(key.data)
        for worker in self.workers:
            worker.close()
        self._selector.close()

    def _ready(self, worker):
        return any(key.data is worker for key, _ in self._selector.select(0))


class LocalStart:
    """Starts the workers of an attempt on this machine, each attempt on ports of its own."""

    def __init__(self, command, workdir, guard, gpus=()):
        """
        Args:
          command: list of str, the same for every worker.
          workdir: directory of the run; logs are WORKDIR/workers/<rank>.log.
          guard: Guard.
          gpus: what CUDA_VISIBLE_DEVICES calls the GPUs that are shared out; empty where there are none.
        """
        self._command, self._workdir, self._guard, self._gpus, self._ports = command, workdir, guard, gpus, ()

    def __call__(self, size, attempt, on_line):
        """Starts `size` workers; returns LocalWorkers.

        Raises:
          RunFailure: this machine cannot start them.
        """
        self._ports = free_ports(size, without=self._ports)
        folder = os.path.join(self._workdir, "workers")
        try:
            os.makedirs(folder, exist_ok=True)
            started = LocalWorkers([self._command] * size,
                                   [self._environment(rank, size, attempt) for rank in range(size)],
                                   [os.path.join(folder, f"{rank}.log") for rank in range(size)], self._guard, on_line)
        except OSError as error:
            raise RunFailure(f"{size} workers cannot be started: {error}") from error
        when = datetime.datetime.now().astimezone().isoformat(timespec="seconds")
        for worker in started.workers:
            worker.log_line(f"--- attempt {attempt}, worker {worker.rank} of {size}, process {worker.pid}, {when}")
        return started

    def _environment(self, rank, size, attempt):
        values = {**child_environment(), "MIRRORLINE_ATTEMPT": str(attempt), "PYTHONUNBUFFERED": "1"}
        if size > 1:
            values["TF_CONFIG"] = Cluster.from_hosts((LOOPBACK,) * size, self._ports, rank).tf_config
        if self._gpus:
            values["CUDA_VISIBLE_DEVICES"] = ",".join(share(self._gpus, rank, size))
        return values


def share(devices, rank, size):
    """Returns the part of a rank of devices that are shared out evenly, neighbours together."""
    each = len(devices) // size
    return devices[rank * each:(rank + 1) * each]
