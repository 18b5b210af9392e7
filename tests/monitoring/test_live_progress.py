"""The live display: correct numbers, in lines that fit, on a terminal that is restored."""
import fcntl
import io
import os
import pathlib
import pty
import re
import struct
import subprocess
import sys
import termios
import threading
import time

import pytest
from rich.cells import cell_len
from rich.console import Console

from pipeline.callbacks import Restored
from pipeline.config import ExperimentConfig
from pipeline.monitoring.live_progress import LiveProgress, epoch_at
from pipeline.training.cadence import plan
from tests.commands import environment, metrics, start
from tests.monitoring.test_progress import PLAN, STEADY, evaluate, train_window
from tests.selection import quick

CONTROL = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")


def test_epochs_are_counted_from_one_and_end_full():
    assert epoch_at(PLAN, 0) == (1, 12, 0.0)
    number, last, share = epoch_at(PLAN, 45)
    assert (number, last) == (2, 12) and 0 <= share < 0.03
    assert epoch_at(PLAN, 539) == (12, 12, 1.0)
    part = plan(ExperimentConfig.from_flat({"steps": 60, "batch_size": 32}), 1437)
    assert epoch_at(part, 60) == (2, 2, 1.0)  # The run ends there: so does its part of the epoch.
    short = plan(ExperimentConfig.from_flat({"steps": 10, "batch_size": 1}), 1437)
    assert [epoch_at(short, step) for step in (0, 5, 10)] == [(1, 1, 0.0), (1, 1, pytest.approx(0.5)), (1, 1, 1.0)]


def _live(width, height=20, **more):
    screen = io.StringIO()
    console = Console(file=screen, force_terminal=True, width=width, height=height, color_system="standard",
                      _environ={"TERM": "xterm"}, **more)
    return LiveProgress(PLAN, console), screen


def _drawn(live):
    """Returns the lines of the display as they are drawn now."""
    lines = live.console.render_lines(live, pad=False)
    return ["".join(segment.text for segment in line) for line in lines]


def _train(live, step=161):
    train_window(live, 1, 2.4, 0.1, {})
    train_window(live, 135, 0.8, 0.7, STEADY)
    evaluate(live, 135, 0.1540, 0.9639, "validation")
    live.on_checkpoint(135)
    train_window(live, step, 0.2311, 0.9375, STEADY)


def test_the_display_shows_the_figures_of_a_run():
    live, _ = _live(120)
    _train(live)
    bars, figures, more = _drawn(live)
    assert re.fullmatch(r"epoch  4/12 ━{23}─{17}  59%   step 161/539 ━+─+  30%  \d\d:\d\d left", bars)
    assert figures.split("   ")[0].rstrip() == "training loss 0.2311; best validation 0.1540 at step 135"
    assert figures.endswith("training accuracy 93.75%; best validation 96.39%")
    assert re.fullmatch(r"2,560 examples/s, 61% of the machine's ceiling +last checkpoint of step 135, \d+:\d\d ago",
                        more)
    live.phase("evaluating validation")
    assert _drawn(live)[0].endswith("30%  evaluating validation")


@pytest.mark.parametrize("width", [1, 5, 12, 24, 40, 60, 79, 80, 120, 300])
def test_no_line_is_wider_than_the_window(width):
    for more in ({}, {"no_color": True}):
        live, screen = _live(width, **more)
        live._live.auto_refresh = False
        live.on_start(Restored(0))
        for doing in (None, "evaluating validation"):
            _train(live)
            live.phase(doing)
            lines = _drawn(live)
            assert max(map(cell_len, lines)) < max(2, width) and len(lines) == (3 if width >= 80 else 6)
            live._live.refresh()
        live.close()
        for line in re.split(r"[\r\n]", CONTROL.sub("", screen.getvalue())):
            assert cell_len(line) <= width
        if width == 40:
            assert lines[0].startswith("epoch  4/12 ━") and re.fullmatch(
                "step 161/539 ━+─+ evaluating", lines[1])
            assert lines[3] == "accuracy 93.75%; validation 96.39%"


def test_a_resumed_run_shows_its_checkpoint():
    live, _ = _live(80)
    live._live.auto_refresh = False
    live.on_start(Restored(135))
    try:
        assert "last checkpoint of step 135" in _drawn(live)[2]
    finally:
        live.close()


def test_a_low_window_shows_the_first_lines():
    live, _ = _live(40, height=4)
    _train(live)
    assert len(_drawn(live)) == 3


def test_a_window_that_becomes_narrower_keeps_no_old_lines():
    live, screen = _live(100)
    live._live.auto_refresh = False
    live.on_start(Restored(0))
    _train(live)
    live._live.refresh()
    widths = [len(line) for line in _drawn(live)]
    assert len(widths) == 3 and min(widths) > 80
    live.console.width = 50
    before = len(screen.getvalue())
    live._live.refresh()
    # Three lines of more than 50 columns are six rows now: five up from the last one, each wiped.
    assert screen.getvalue()[before:].count("\x1b[1A\x1b[2K") == 5
    live.close()


def test_without_colors_and_without_unicode_it_can_be_read():
    live, screen = _live(60, no_color=True)
    live.on_start(Restored(0))
    _train(live)
    live.close()
    assert not re.search(r"\x1b\[[0-9;]*3[0-9]", screen.getvalue())
    plain, _ = _live(60)
    plain.console._environ = {}
    plain.console.file = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
    _train(plain)
    assert re.match(r"epoch  4/12 #+\.+  59%$", _drawn(plain)[0])


LOOKED_AT = """
import os, pathlib, sys
from pipeline.callbacks import Restored
from pipeline.config import ExperimentConfig
from pipeline.monitoring.live_progress import LiveProgress
from pipeline.sweep.leaderboard import LiveLeaderboard
from pipeline.sweep.records import FAILED, Trial
from pipeline.training.cadence import plan
from tests.monitoring.test_progress import evaluate, train_window

if sys.argv[1] == "run":
    live = LiveProgress(plan(ExperimentConfig.from_flat({"epochs": 12.0, "batch_size": 32}), 1437))
    live.on_start(Restored(0))
    def look():
        train_window(live, 1, 2.4, 0.1, {})
        evaluate(live, 1, 1.0, 0.5)
        live._live.refresh()
else:
    live, trial = LiveLeaderboard("accuracy", 3), Trial(1, {"seed": 1}, FAILED, message="it diverged")
    def look():
        live._shown = 0.0
        live.update([trial], [], False)
        live.end(trial, [trial])
look()
while os.isatty(1):
    look()
for _ in range(5):
    look()
live.close()
print("the end")
pathlib.Path(sys.argv[2]).write_text("went on")
"""


@pytest.mark.parametrize("display", quick(["run", "sweep"], 0))
def test_a_terminal_that_is_closed_does_not_end_what_it_showed(display, tmp_path):
    master, slave = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, "-c", LOOKED_AT, display, tmp_path / "end"], env={**environment(), "TERM": "xterm-256color"},
        stdin=slave, stdout=slave, stderr=slave, start_new_session=True)
    os.close(slave)
    seen = b""
    while b"%" not in seen and b"diverged" not in seen:
        seen += os.read(master, 65536)  # Raises where it has ended.
    os.close(master)
    try:
        assert process.wait(timeout=600) == 0 and (tmp_path / "end").read_text() == "went on"
    finally:
        process.kill()


class Terminal:
    """A command on a terminal of its own; `text` is its output."""

    def __init__(self, arguments, cwd, columns):
        self.master, self._slave = pty.openpty()
        self.resize(columns)
        self.process = start(os.ttyname(self._slave), *arguments, cwd=cwd, more={"TERM": "xterm-256color"},
                             module="tests.monitoring.on_terminal")
        self._data, self._reader = b"", threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    @property
    def text(self):
        return self._data.decode("utf-8", "replace")

    def _read(self):
        while True:
            try:
                data = os.read(self.master, 65536)
            except OSError:  # Its last process is gone.
                return
            self._data += data

    def resize(self, columns):
        """Makes the window another width."""
        fcntl.ioctl(self.master, termios.TIOCSWINSZ, struct.pack("4H", 20, columns, 0, 0))

    def wait_for_a_display(self):
        """Waits until it is drawn again, with the best evaluation so far."""
        seen, deadline = len(self.text), time.monotonic() + 600
        while "best" not in self.text[seen:]:
            assert self.process.poll() is None and time.monotonic() < deadline, self.text
            time.sleep(0.05)

    def press(self, key):
        """Presses a key."""
        os.write(self.master, key)

    def wait(self):
        """Returns the exit code."""
        code = self.process.wait(timeout=600)
        os.close(self._slave)
        self._reader.join(timeout=600)
        return code


@pytest.mark.acceptance  # tests/training/test_preemption.py closes one.
def test_a_real_run_on_a_terminal_that_is_resized_and_interrupted(tmp_path):
    terminal = Terminal(["train", "--model=mlp", "--steps=1000000", "--evaluate_every=300", "--tensorboard=scalars",
                         "--workdir=run"], tmp_path, 100)
    try:
        terminal.wait_for_a_display()
        terminal.resize(40)
        for _ in range(2):  # The first one may have begun before the window was resized.
            terminal.wait_for_a_display()
        seen = len(terminal.text)
        terminal.wait_for_a_display()
        for line in re.split(r"[\r\n]", CONTROL.sub("", terminal.text[seen:])):
            assert cell_len(line) <= 40, line
        assert "epoch" in terminal.text[seen:]
        terminal.press(b"\x03")
        assert terminal.wait() == 75
    finally:
        terminal.process.kill()
    # The cursor is to be seen, and the last line is whole and stands alone.
    assert terminal.text.rfind("\x1b[?25h") > terminal.text.rfind("\x1b[?25l") > 0
    last = CONTROL.sub("", terminal.text.rstrip().split("\n")[-1]).strip("\r")
    reached = metrics(pathlib.Path(tmp_path) / "run", "train")[-1]["step"]
    assert last == f"stopped at step {reached} of 1000000 and saved; run the same command again to continue"
