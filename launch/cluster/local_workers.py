"""The workers of one attempt as processes of this machine.

Each worker leads a session and a process group of its own, so that its children end with it and the supervisor handles
Ctrl-C. When the supervisor is killed, the kernel kills the workers, and a Guard kills what they had started.
"""
import datetime
import os
import selectors
import signal
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence

import psutil

from launch.cluster.guard import Guard, kill_group
from launch.cluster.ports import LOOPBACK, free_ports
from pipeline.distributed.cluster import Cluster
from pipeline.errors import RunFailure
from pipeline.files import no_room
from pipeline.processes import child_environment, end_with

MOST_READ = 2**16
POLL_SECONDS = 0.02
KILL_SECONDS, LAST_LINES_SECONDS = 60.0, 2.0
LONGEST_LINE = 2**14  # Bytes; a longer line is passed on in parts.
OnLine = Callable[[int, str], None]  # Called with a rank and a line of that worker.


class Worker:
    """The process of one worker, whose output is appended to its log and passed on in lines.

    Attributes:
      rank: of the worker.
      code: exit code, negative for a signal; None while it runs.
      ended: time.monotonic() at which its end was noticed.
      pipe: descriptor from which its output is read.
      closed: whether no process can write to the pipe any more.
    """

    def __init__(self, rank: int, command: Sequence[str], environment: Mapping[str, str], log: str, guard: Guard):
        """Starts it with all variables of `environment`; its output is appended to the file `log`."""
        self.rank, self.closed, self._guard, self._rest = rank, False, guard, b""
        self.code: int | None = None
        self.ended: float | None = None
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
    def pid(self) -> int:
        """Id of its process and of the group that it leads."""
        return self._process.pid

    def poll(self) -> int | None:
        """Returns the exit code, None while it runs; once it has ended, its children are killed."""
        if self.code is not None:
            return self.code
        # Checked before it is reaped: until then its id is not reused.
        if os.waitid(os.P_PID, self.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT):
            kill_group(self.pid)
            self._guard.remove(self.pid)
            self.code, self.ended = self._process.wait(), time.monotonic()
        return self.code

    def stopped(self) -> bool:
        """Tells whether it is stopped, as by SIGSTOP."""
        try:
            return self.code is None and psutil.Process(self.pid).status() == psutil.STATUS_STOPPED
        except psutil.Error:
            return False

    def ask(self) -> None:
        """Asks it to stop (SIGTERM)."""
        if self.poll() is None:
            self._process.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        """Kills it and its children."""
        if self.poll() is None:
            kill_group(self.pid)

    def log_line(self, text: str) -> None:
        """Appends a line to its log."""
        self._write(f"{text}\n".encode())

    def read(self) -> list[str]:
        """Returns the lines that it has written since the last call."""
        try:
            data = os.read(self.pipe, MOST_READ)
        except BlockingIOError:
            return []
        self.closed = not data
        self._write(data)
        *lines, self._rest = (self._rest + data).split(b"\n")
        if self._rest and (self.closed or len(self._rest) > LONGEST_LINE):
            lines, self._rest = [*lines, self._rest], b""
        # Of a progress bar, which is redrawn within its line, the last state counts.
        return [line.rstrip(b"\r").rpartition(b"\r")[2].decode(errors="replace") for line in lines]

    def close(self) -> None:
        """Closes its log and pipe."""
        self._log.close()
        os.close(self.pipe)

    def _write(self, data: bytes) -> None:
        try:
            self._log.write(data)
        except OSError as error:
            if not no_room(error):  # On a full disk the run waits for room; a log is not worth ending it.
                raise


class LocalWorkers:
    """All workers of one attempt.

    Attributes:
      workers: list of Worker, by rank.
    """

    def __init__(self, commands: Sequence[Sequence[str]], environments: Sequence[Mapping[str, str]],
                 logs: Sequence[str], guard: Guard, on_line: OnLine):
        """Starts them; arguments by rank, as of Worker. Everything that they write is passed to `on_line`."""
        self.workers: list[Worker] = []
        self._on_line, self._selector = on_line, selectors.DefaultSelector()
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
    def running(self) -> list[Worker]:
        """Those that have not ended."""
        return [worker for worker in self.workers if worker.code is None]

    def watch(self, seconds: float) -> None:
        """Passes on their output and notices who has ended, for that long or until one writes."""
        if self._selector.get_map():
            for key, _ in self._selector.select(seconds):
                self._read(key.data)
        else:
            time.sleep(seconds)
        for worker in self.running:
            worker.poll()

    def _read(self, worker: Worker) -> None:
        for line in worker.read():
            self._on_line(worker.rank, line)
        if worker.closed:
            self._selector.unregister(worker.pipe)

    def ask(self) -> None:
        """Asks all to stop, once each."""
        for worker in self.running:
            worker.ask()

    def kill(self) -> None:
        """Kills all that run and waits for their end.

        Raises:
          RunFailure: the kernel does not end one of them, as where a file system hangs.
        """
        deadline = time.monotonic() + KILL_SECONDS
        for worker in self.running:
            worker.kill()
        while self.running:
            self.watch(POLL_SECONDS)
            if self.running and time.monotonic() > deadline:
                raise RunFailure(f"worker {self.running[0].rank}, process {self.running[0].pid}, was killed and does "
                                 "not end: look at what it waits for (ps -o stat,wchan), and end it")

    def stop(self, grace: float, hurry: Callable[[], bool] = lambda: False) -> None:
        """Ends all: SIGTERM, then SIGKILL for those that still run `grace` seconds later or once `hurry()` is true.

        A stopped one (SIGSTOP) cannot handle SIGTERM and is killed at once.
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

    def close(self) -> None:
        """Passes on their last lines; to be called when all have ended."""
        deadline = time.monotonic() + LAST_LINES_SECONDS  # A process that left its worker's group may write on.
        for key in list(self._selector.get_map().values()):
            while time.monotonic() < deadline and key.fd in self._selector.get_map() and any(
                    ready.data is key.data for ready, _ in self._selector.select(0)):
                self._read(key.data)
        for worker in self.workers:
            worker.close()
        self._selector.close()


class LocalStart:
    """Starts the workers of each attempt on this machine, with new ports for each attempt."""

    def __init__(self, command: Sequence[str], workdir: str, guard: Guard, gpus: Sequence[str] = ()):
        """
        Args:
          command: of every worker.
          workdir: directory of the run; logs are WORKDIR/workers/<rank>.log.
          guard: kills what the workers leave.
          gpus: values for CUDA_VISIBLE_DEVICES, divided among the workers.
        """
        self._command, self._workdir, self._guard, self._gpus = command, workdir, guard, gpus
        self._ports: tuple[int, ...] = ()

    def __call__(self, size: int, attempt: int, on_line: OnLine) -> LocalWorkers:
        """Starts `size` workers.

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

    def _environment(self, rank: int, size: int, attempt: int) -> dict[str, str]:
        values = {**child_environment(), "MIRRORLINE_ATTEMPT": str(attempt), "PYTHONUNBUFFERED": "1"}
        if size > 1:
            values["TF_CONFIG"] = Cluster.from_hosts((LOOPBACK,) * size, self._ports, rank).tf_config
        if self._gpus:
            values["CUDA_VISIBLE_DEVICES"] = ",".join(share(self._gpus, rank, size))
        return values


def share(devices: Sequence[str], rank: int, size: int) -> Sequence[str]:
    """Returns a rank's part of devices that are divided evenly, neighbours together."""
    each = len(devices) // size
    return devices[rank * each:(rank + 1) * each]
