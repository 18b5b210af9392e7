"""The watchdog in real processes: what it writes where nothing moves, and when it keeps still."""
import json
import os
import re
import signal
import subprocess
import sys
import threading
import time

import pytest

from pipeline.training.watchdog import FAILURE, NullWatchdog, Watchdog
from tests.commands import REPOSITORY, environment

# The main thread waits in C for a pipe that nobody writes to, another one in Python.
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

# Each line of standard input is a step.
STEPS = """
import sys
from pipeline.training.watchdog import Watchdog
with Watchdog(float(sys.argv[1]), sys.argv[2], lambda: "none") as watchdog:
    print("waiting", flush=True)
    for step, line in enumerate(sys.stdin):
        watchdog.beat(f"step {step}")
print("done", flush=True)
"""


def process(code, *arguments):
    return subprocess.Popen([sys.executable, "-c", code, *map(str, arguments)], cwd=REPOSITORY, env=environment(),
                            text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE)


def test_a_hang_is_reported_with_the_stacks_of_all_threads(tmp_path):
    path = tmp_path / "hang.txt"
    hung = process(HANG, 3.0, path)
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
    assert event["seconds"] >= 3 and abs(event["wall_time"] - path.stat().st_mtime) < 600


def test_a_run_that_moves_is_left_alone(tmp_path):
    moving = process(STEPS, 5.0, tmp_path / "hang.txt")
    for _ in range(12):
        time.sleep(0.5)
        print("step", file=moving.stdin, flush=True)
    output, errors = moving.communicate(timeout=600)
    assert (moving.returncode, output, errors) == (0, "waiting\ndone\n", "")
    assert not (tmp_path / "hang.txt").exists()


def test_the_time_in_which_the_process_was_stopped_does_not_count(tmp_path):
    stopped = process(STEPS, 6.0, tmp_path / "hang.txt")
    assert stopped.stdout.readline() == "waiting\n"
    time.sleep(4)
    stopped.send_signal(signal.SIGSTOP)
    time.sleep(7)
    stopped.send_signal(signal.SIGCONT)
    time.sleep(3)  # More than the rest of the time allowed: it waits anew.
    assert stopped.poll() is None
    print("step", file=stopped.stdin, flush=True)
    output, errors = stopped.communicate(timeout=600)
    assert (stopped.returncode, output, errors) == (0, "done\n", "")


def test_it_still_fires_after_the_process_was_stopped(tmp_path):
    stopped = process(STEPS, 0.5, tmp_path / "hang.txt")
    assert stopped.stdout.readline() == "waiting\n"
    stopped.send_signal(signal.SIGSTOP)
    time.sleep(1)
    stopped.send_signal(signal.SIGCONT)
    assert stopped.wait(timeout=600) == 1
    assert "after the start" in stopped.stderr.read()
    stopped.communicate()


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


@pytest.mark.parametrize("watchdog", [Watchdog(0, "/nowhere/hang.txt", str), NullWatchdog()])
def test_without_a_timeout_nothing_ends(watchdog):
    before = threading.active_count()
    with watchdog as entered:
        entered.beat("step 1")
        with entered.within(0):
            time.sleep(1.2)  # Longer than it looks away.
    assert threading.active_count() == before


def test_what_has_a_time_of_its_own_ends_the_process_after_it(tmp_path):
    saving = HANG.replace("    hangs_here()\n", "    with watchdog.within(0.5):\n        hangs_here()\n")
    hung = process(saving, 600.0, tmp_path / "hang.txt")
    _, errors = hung.communicate(timeout=600)
    assert hung.returncode == FAILURE and "after step 3" in errors and (tmp_path / "hang.txt").exists()
    assert "hangs_here" in (tmp_path / "hang.txt").read_text()
