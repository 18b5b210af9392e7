"""Reports of long activities, status lines, and processes that do not handle their signals."""
import io
import signal
import subprocess
import sys
import time

import pytest

from pipeline import activity, console, interruption
from tests.commands import REPOSITORY
from tests.consoles import RecordingConsole

WAITING = 30  # Seconds, at most.
# The main thread does not come to its end; standard error is held back meanwhile, as where TensorFlow is loaded.
DEAF = """
import time, pipeline.interruption as interruption
from pipeline.activity import activity
from pipeline.silence import held_back_stderr
interruption.PATIENCE = 0.1
with interruption.interruptible("mirrorline train"), activity("reading images"), held_back_stderr(), held_back_stderr():
    try:
        print("ready", flush=True)
        time.sleep(3600)
    except KeyboardInterrupt:
        time.sleep(3600)
"""
# It has reported the interruption and cleans up.
ENDING = """
import sys, time, pipeline.interruption as interruption
try:
    with interruption.interruptible("mirrorline train", ends=True):
        print("ready", flush=True)
        time.sleep(3600)
except KeyboardInterrupt as error:
    print("mirrorline train: interrupted", file=sys.stderr, flush=True)
    print("reported", flush=True)
    time.sleep(3600)
"""


class Terminal(io.StringIO):
    """A terminal of 40 columns."""

    def isatty(self):
        return True


def until(condition):
    """Waits for a condition."""
    deadline = time.monotonic() + WAITING
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.005)


def test_long_activity_prints_lines_without_a_terminal(monkeypatch):
    monkeypatch.setattr(activity, "PRINTED", 0.01)
    lines = []
    with activity.activity("reading images", RecordingConsole(lines), 3000) as doing:
        doing.advance(1234)
        until(lambda: lines)
        with activity.activity("measuring the mean of the images"):  # It says so where the one around it does.
            until(lambda: lines[-1].startswith("measuring"))
    assert lines[0].startswith("reading images: 1,234 of 3,000, 00:0") and activity.running() is None


def test_short_activity_prints_nothing():
    lines = []
    with activity.activity("reading images", RecordingConsole(lines)):
        assert activity.running() == "reading images"
    assert lines == []


def test_status_line_is_redrawn_and_erased_by_messages(monkeypatch):
    screen = Terminal()
    monkeypatch.setattr(sys, "stdout", screen)
    monkeypatch.setattr(activity, "DRAWN", 0.01)
    for name, value in (("TERM", "xterm"), ("COLUMNS", "40")):
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(console, "is_live", lambda stream: stream is screen)
    lines = console.Console()
    with activity.activity("reading images of a folder with a long name", lines, 3000):
        until(lambda: "reading" in screen.getvalue())
        lines.info("note")
    text = screen.getvalue()
    assert f"{console.ERASE}note\n" in text and text.split(console.ERASE)[-1] in ("", "note\n")
    assert max(len(part) for part in text.split(console.ERASE)) < 40  # Nothing is wrapped, which could not be erased.


def test_interruption_names_the_activity():
    with pytest.raises(KeyboardInterrupt) as caught, activity.activity("reading images"):
        raise KeyboardInterrupt
    assert caught.value.doing == "reading images" and activity.running() is None


def started(script):
    """Starts a script; returns its process once it is ready."""
    process = subprocess.Popen([sys.executable, "-c", script], cwd=REPOSITORY, stdout=subprocess.PIPE,
                               stderr=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "ready\n"
    return process


@pytest.mark.parametrize("number", interruption.SIGNALS)
def test_unresponsive_process_is_ended_with_a_message(number):
    process = started(DEAF)
    process.send_signal(number)
    _, errors = process.communicate(timeout=60)
    assert (process.returncode, errors) == (
        128 + number, "mirrorline train: interrupted while reading images; nothing was written\n")


def test_second_signal_ends_an_interrupted_process_with_the_same_code():
    process = started(ENDING)
    process.send_signal(signal.SIGINT)
    assert process.stdout.readline() == "reported\n"
    process.send_signal(signal.SIGTERM)
    _, errors = process.communicate(timeout=60)
    assert (process.returncode, errors) == (130, "mirrorline train: interrupted\n")
