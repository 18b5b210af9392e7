"""Signals that ask a run to stop, and that it is saved."""
import contextlib
import json
import os
import pty
import signal
import threading
import time

import pytest

from pipeline import runs
from pipeline.config import ExperimentConfig
from pipeline.training import preemption
from pipeline.training.preemption import NOTICES, StopRequest, stop_signals
from tests.commands import metrics, start
from tests.consoles import RecordingConsole
from tests.selection import quick

RUN = ("train", "--dataset=digits", "--model=mlp", "--steps=1000000", "--steps_per_loop=10",
       "--checkpoint_every=500000", "--evaluate_every=500000", "--augment=", "--tensorboard=scalars", "--workdir=run")
SAVED = 75


def wait_for_a_step(process, folder, seconds=300, terminal=None):
    """Waits for the first step of a run, reading its terminal, which would block it otherwise."""
    deadline = time.monotonic() + seconds
    while not metrics(folder / "run") and process.poll() is None:
        assert time.monotonic() < deadline
        with contextlib.suppress(BlockingIOError):
            while terminal is not None:
                os.read(terminal, 2**16)
        time.sleep(0.02)


def saved_step(folder):
    """Returns the latest saved step in launches.jsonl."""
    lines = (folder / "run" / "launches.jsonl").read_text().splitlines()
    return max(record["step"] for record in map(json.loads, lines) if record["event"] == "saved")


@pytest.mark.parametrize("numbers", quick([[signal.SIGUSR1, signal.SIGHUP, signal.SIGHUP, signal.SIGTERM],
                                           [signal.SIGUSR2]], 0))
def test_a_signal_saves_the_run(tmp_path, numbers):
    process = start(*RUN, cwd=tmp_path)
    wait_for_a_step(process, tmp_path)
    for number in numbers:
        process.send_signal(number)
    _, errors = process.communicate(timeout=300)
    assert process.returncode == SAVED and "and saved; run the same command again" in errors, errors
    assert saved_step(tmp_path) > 0


def test_a_closed_terminal_saves_the_run(tmp_path):
    ours, theirs = pty.openpty()

    process = start(os.ttyname(theirs), *RUN, cwd=tmp_path, module="tests.monitoring.on_terminal")
    os.set_blocking(ours, False)
    wait_for_a_step(process, tmp_path, terminal=ours)
    os.close(theirs)
    os.close(ours)  # The kernel sends SIGHUP, and every write from here on is an error.
    assert process.wait(300) == SAVED
    assert saved_step(tmp_path) > 0


def test_signals_that_are_ignored_or_handled_by_others_are_not_taken(monkeypatch):
    assert set(NOTICES) <= set(stop_signals())
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN), signal.signal(signal.SIGUSR1, lambda *_: None)
    try:
        assert stop_signals() == (signal.SIGTERM, signal.SIGINT, signal.SIGUSR2, signal.SIGXCPU)
        with StopRequest() as stop:  # As of nohup.
            os.kill(os.getpid(), signal.SIGHUP)
            os.kill(os.getpid(), signal.SIGUSR1)
        assert not stop()
    finally:
        signal.signal(signal.SIGHUP, before[0]), signal.signal(signal.SIGUSR1, before[1])


def test_a_second_order_ends_at_once_a_second_notice_does_not(monkeypatch):
    ended = threading.Event()
    monkeypatch.setattr(preemption.os, "_exit", lambda code: ended.set())
    with StopRequest() as stop:
        for number in (signal.SIGUSR1, signal.SIGHUP, signal.SIGUSR1, signal.SIGTERM):
            os.kill(os.getpid(), number)
    assert stop() and not ended.is_set()
    with StopRequest():
        for number in (signal.SIGTERM, signal.SIGINT):
            os.kill(os.getpid(), number)
        assert ended.wait(60)


def test_training_in_another_thread_reports_that_signals_do_not_save_it(tmp_path):
    output, found = [], []
    config = ExperimentConfig.from_flat({"dataset": "digits", "model": "mlp", "steps": 2, "subset": 2,
                                         "tensorboard": "scalars", "workdir": str(tmp_path / "run"),
                                         "verbosity": "quiet"})
    thread = threading.Thread(target=lambda: found.append(runs.train(config, RecordingConsole(output))))
    thread.start()
    thread.join()
    assert found and found[0].status == "finished"
    assert len([line for line in output if "signals do not save this run" in line]) == 1
