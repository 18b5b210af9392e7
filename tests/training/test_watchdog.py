"""The watchdog: its report of a hang in real processes, and when it ends a process."""
import json
import os
import re
import subprocess
import sys

import pytest

from pipeline.training import watchdog
from pipeline.training.watchdog import FAILURE, Watchdog
from tests.commands import REPOSITORY, environment

# The main thread waits in C for a pipe without a writer, another one in Python.
HANG = """
import json, os, sys, threading, time
from pipeline.training.watchdog import Watchdog
def blocked_in_a_thread():
    threading.Event().wait()
def record(event):
    print(json.dumps(event), flush=True)
def hangs_here():
    os.read(os.pipe()[0], 1)
threading.Thread(target=blocked_in_a_thread, name="reader", daemon=True).start()
with Watchdog(float(sys.argv[1]), sys.argv[2], lambda: "ReductionToOneDevice over 2 CPU replicas", record) as watchdog:
    for step in range(1, 4):
        time.sleep(0.1)
        watchdog.beat(f"step {step}")
    print("waiting", flush=True)
    hangs_here()
"""


def process(code, *arguments):
    return subprocess.Popen([sys.executable, "-c", code, *map(str, arguments)], cwd=REPOSITORY, env=environment(),
                            text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE)


def test_a_hang_is_reported_with_the_stacks_of_all_threads(tmp_path):
    path = tmp_path / "hang.txt"
    hung = process(HANG, 2.0, path)
    output, errors = hung.communicate(timeout=600)
    assert hung.returncode == FAILURE == 1
    assert re.match(rf"mirrorline: nothing finished for \d+ s after step 3, so the process ends; .* in {path}; run the "
                    "same command again to continue, on several GPUs perhaps with another --cross_device_reduction, or "
                    "with NCCL_DEBUG=INFO", errors)
    assert errors.count("\n") == 1
    report = path.read_text()
    assert re.search(r"^progress   step 3, then nothing for \d+\.\d s$", report, re.MULTILINE)
    assert "run        ReductionToOneDevice over 2 CPU replicas\n" in report and f"process    {hung.pid} on " in report
    for function in ("hangs_here", "blocked_in_a_thread", "_watch"):
        assert f"in {function}\n" in report
    main = re.search(r"thread     (0x\w+) MainThread", report)[1]
    assert f"Thread {main} (most recent call first):\n  File \"<string>\", line 9 in hangs_here" in report
    event = json.loads(output.splitlines()[1])
    assert (event["event"], event["progress"], event["file"]) == ("hang", "step 3", "hang.txt")
    assert event["seconds"] >= 2 and abs(event["wall_time"] - path.stat().st_mtime) < 600


class Clock:
    """Stands in for the module `time` and for the event on which a watchdog waits: waiting advances it.

    Attributes:
      now: seconds.
      ended: when the watchdog ended its process, None before.
    """

    def __init__(self, guard, events, until):
        """
        Args:
          guard: Watchdog.
          events: [(time, function of the watchdog and the clock)], called once the clock has reached their time.
          until: end of the watching.
        """
        self.guard, self.events, self.until, self.now, self.ended = guard, list(events), until, 0.0, None

    def monotonic(self):
        return self.now

    def wait(self, pause):
        self.now += pause
        while self.events and self.events[0][0] <= self.now:
            self.events.pop(0)[1](self.guard, self)
        return self.now >= self.until or self.ended is not None

    def end(self, passed):
        self.ended = self.now


def beat(guard, clock):
    guard.beat("a step")


def stop(guard, clock):
    clock.now += 100


def enter_block(guard, clock):
    clock.block = guard.within(5)
    clock.block.__enter__()


@pytest.mark.parametrize("seconds, events, expected", [
    (5, [], 5),
    (5, [(3, beat), (6, beat)], 11),
    (5, [(3 * i, beat) for i in range(1, 334)], None),
    (0, [], None),
    (6, [(4, stop)], 110),  # The process was stopped for 100 s: the timeout starts again.
    (6, [(4, stop), *((109 + 5 * i, beat) for i in range(200))], None),
    (600, [(100, enter_block)], 105),
])
def test_a_process_ends_after_the_timeout_without_a_beat(monkeypatch, seconds, events, expected):
    guard = Watchdog(seconds, "/nowhere/hang.txt", str)
    clock = Clock(guard, events, until=1000)
    monkeypatch.setattr(watchdog, "time", clock)
    guard._since, guard._ended, guard._end = clock.now, clock, clock.end
    guard._watch()
    assert clock.ended == (expected and pytest.approx(expected, abs=1.1))


def test_a_report_that_cannot_be_written_does_not_keep_the_process(tmp_path):
    hung = process(HANG, 0.5, tmp_path / "gone" / "hang.txt")
    _, errors = hung.communicate(timeout=600)
    assert hung.returncode == 1
    assert "in hangs_here\n" in errors and "hang.txt cannot be written ([Errno 2] No such file" in errors


def test_a_disk_that_hangs_does_not_keep_the_process(tmp_path):
    os.mkfifo(tmp_path / "hang.txt")  # Opening it waits for a reader.
    impatient = "import pipeline.training.watchdog\npipeline.training.watchdog.LAST_WORDS = 0.5\n"
    hung = process(impatient + HANG, 0.5, tmp_path / "hang.txt")
    _, errors = hung.communicate(timeout=600)
    assert hung.returncode == 1 and "hang.txt cannot be written (no answer within 0.5 s)" in errors
