"""The real command on a disk that becomes full while it trains."""
import os
import re
import signal
import threading
import time

import pytest

from pipeline.training.checkpoint import stored_checkpoints
from tests.commands import assert_every_step_once, metrics, mirrorline, result, start
from tests.small_disk import small_disk

STEPS = 400
TRAIN = ("train", "--dataset=digits", "--model=mlp", "--batch_size=32", f"--steps={STEPS}", "--schedule=cosine",
         "--augment=crop", "--evaluate_every=100", "--checkpoint_every=20")


FULL, OVER = "is full (", "there is room on the disk again: the checkpoint of step"


def assert_warned_in_turn(lines, end):
    """Each warning is printed once, until it is over; what the run removes may make room for one checkpoint or two."""
    assert 1 <= len(lines) <= 6, lines
    for i, line in enumerate(lines):
        assert (FULL, OVER)[i % 2] in line, lines
    assert end in lines[-1], lines


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """The result of the same run on a disk with room."""
    folder = tmp_path_factory.mktemp("whole")
    done = mirrorline(*TRAIN, "--workdir=run", cwd=folder)
    assert done.returncode == 0, done.stderr
    return result(folder / "run")


@pytest.fixture
def disk(tmp_path):
    with small_disk(tmp_path / "disk", 8) as made:
        yield made


class Command:
    """A run on the small disk, a step a line, which is held still whenever its disk is looked at or changed."""

    def __init__(self, disk, folder):
        self.disk, self.workdir = disk, os.path.join(disk.folder, "run")
        self.process = start(*TRAIN, "--steps_per_loop=1", f"--workdir={self.workdir}", cwd=folder)
        disk.process = self.process.pid
        self._out, self._errors = [], []
        self._readers = [threading.Thread(target=lines.extend, args=(pipe,), daemon=True) for lines, pipe in (
            (self._out, self.process.stdout), (self._errors, self.process.stderr))]
        for reader in self._readers:
            reader.start()
        self.wait(lambda: self.step() >= 50)

    def step(self):
        """The latest step that the run has shown."""
        return max((int(s) for s in re.findall(r"step +(\d+)/", "".join(self._out))), default=0)

    def errors(self):
        """What it has written to standard error."""
        return "".join(self._errors)

    def wait(self, condition, full=False):
        """Lets the run go on until a condition holds; with `full`, room that it makes is taken at once."""
        deadline = time.monotonic() + 600
        while True:
            self.process.send_signal(signal.SIGSTOP)
            os.waitid(os.P_PID, self.process.pid, os.WSTOPPED | os.WEXITED | os.WNOWAIT)  # All its threads are.
            assert self.process.poll() is None and time.monotonic() < deadline, self.errors()
            if full:
                self.disk.fill()
            if condition():
                return
            self.process.send_signal(signal.SIGCONT)
            time.sleep(0.05)

    def end(self):
        """Lets the run go on to its end; returns its exit code."""
        self.process.send_signal(signal.SIGCONT)
        for reader in self._readers:
            reader.join(timeout=600)
        return self.process.wait(timeout=600)


@pytest.fixture
def running(disk, tmp_path):
    command = Command(disk, tmp_path)
    yield command
    command.process.kill()
    command.process.wait()


@pytest.mark.acceptance  # tests/training/test_disk_full.py has it in one process.
def test_a_run_goes_on_while_its_disk_is_full(running, disk, whole):
    disk.fill()
    running.wait(lambda: "full" in running.errors(), full=True)
    last = running.step()
    running.wait(lambda: running.step() >= last + 150, full=True)  # It goes on, over evaluations and checkpoints.
    recorded, good = metrics(running.workdir, "train")[-1]["step"], stored_checkpoints(running.workdir + "/checkpoints")
    assert recorded < last + 150 and good[0].step <= recorded and good[0].problem is None
    full = running.step()
    disk.free()
    running.wait(lambda: stored_checkpoints(running.workdir + "/checkpoints")[0].step > full)
    assert running.end() == 0, running.errors()
    assert result(running.workdir)["weights_sha256"] == whole["weights_sha256"]
    assert result(running.workdir)["test_loss"] == whole["test_loss"]
    assert_every_step_once(running.workdir, STEPS)
    assert_warned_in_turn(running.errors().splitlines(), end=OVER)


@pytest.mark.acceptance
def test_a_disk_that_stays_full_costs_the_last_steps_alone(running, disk, whole, tmp_path):
    disk.fill()
    running.wait(lambda: "full" in running.errors(), full=True)
    running.wait(lambda: running.step() >= STEPS - 100, full=True)
    assert running.end() == 1
    *lines, last = running.errors().splitlines()
    assert_warned_in_turn(lines, end=FULL)
    assert last.startswith("mirrorline train: ") and "make room" in last
    assert not os.path.exists(os.path.join(running.workdir, "result.json"))
    good = stored_checkpoints(running.workdir + "/checkpoints")[0]
    assert good.problem is None and f"step {good.step};" in last
    disk.free()
    again = mirrorline(*TRAIN, f"--workdir={running.workdir}", cwd=tmp_path)
    assert again.returncode == 0 and f"resume  from the checkpoint of step {good.step}" in again.stdout, again.stderr
    assert result(running.workdir)["weights_sha256"] == whole["weights_sha256"]
    assert_every_step_once(running.workdir, STEPS)


@pytest.mark.acceptance
def test_a_run_that_begins_on_a_full_disk_says_so(disk, tmp_path):
    if not disk.real:
        disk.process = os.getpid()  # The limit is handed down to the command.
    disk.fill()
    done = mirrorline(*TRAIN, f"--workdir={os.path.join(disk.folder, 'run')}", cwd=tmp_path, fresh=not disk.real)
    disk.free()
    lines = done.stderr.splitlines()
    if disk.real:
        assert done.returncode in (1, 2) and len(lines) == 1 and "no space left" in lines[0], done.stderr
    else:  # Files of a few kilobytes can be written there: it trains, and says that nothing could be saved.
        assert done.returncode == 1 and len(lines) == 2 and FULL in lines[0], done.stderr
        assert "nothing is saved yet; make room and run the same command again" in lines[1]
    again = mirrorline(*TRAIN, "--steps=5", "--allow=steps", f"--workdir={os.path.join(disk.folder, 'run')}",
                       cwd=tmp_path)
    assert again.returncode == 0, again.stderr
