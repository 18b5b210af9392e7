"""Ctrl-C and SIGTERM before training: the command ends in words, whatever it is doing, and has written nothing."""
import errno
import os
import signal
import time

import pytest
from PIL import Image

from tests.commands import start
from tests.selection import quick

# Whatever opens it waits for somebody who writes: the process is where it is to be interrupted.
PIPE = "pipe.jpg"
BLOCKING = """
import os, keras
from pipeline.models.registry import register

@register("blocking")
class Blocking(keras.Model):
    def __init__(self, num_classes, where: str = "building"):
        super().__init__()
        self.where, self.flatten, self.dense = where, keras.layers.Flatten(), keras.layers.Dense(num_classes)
        if where == "building":
            open("pipe.jpg").read()

    def call(self, x):
        if self.where == "compiling" and os.path.exists("run/config.json"):
            open("pipe.jpg").read()
        return self.dense(self.flatten(x))
"""
# As on a file system that does not answer: the first image is opened once the pipe has a writer.
SLOW = """
import threading
from PIL import Image

opened, lock, first = Image.open, threading.Lock(), []

def open_later(*arguments, **options):
    with lock:
        if not first:
            first.append(open("pipe.jpg").read())
    return opened(*arguments, **options)

Image.open = open_later
"""


def interrupt(process, pipe, number):
    """Sends a signal once a process waits for the pipe, and then lets it go on; returns (exit code, standard error)."""
    deadline = time.monotonic() + 120
    while True:
        assert process.poll() is None and time.monotonic() < deadline
        try:
            writer = os.open(pipe, os.O_WRONLY | os.O_NONBLOCK)
            break
        except OSError as error:
            assert error.errno == errno.ENXIO  # Nobody reads yet.
        time.sleep(0.02)
    process.send_signal(number)
    time.sleep(0.1)
    os.close(writer)
    _, errors = process.communicate(timeout=60)
    return process.returncode, errors


@pytest.mark.parametrize("number, code", quick([
    (signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGHUP, 129)], 0))
def test_a_command_that_reads_images_ends_in_words(number, code, tmp_path):
    for name in ("cat", "dog"):
        (tmp_path / "images" / name).mkdir(parents=True)
        for number_of in (1, 2):
            Image.new("RGB", (8, 8)).save(tmp_path / "images" / name / f"{number_of}.png")
    (tmp_path / "slow.py").write_text(SLOW)
    os.mkfifo(tmp_path / PIPE)
    process = start("train", "--extension=slow.py", "--dataset=folder:images", "--validation_split=0.5",
                    "--workdir=run", cwd=tmp_path)
    assert interrupt(process, tmp_path / PIPE, number) == (
        code, "mirrorline train: interrupted while looking at images; nothing was written\n")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("command, where, words", quick([
    ("train", "building", "interrupted while building the model; nothing was written"),
    ("train", "compiling", "interrupted while compiling the step; no step was trained, the same command starts again"),
    ("inspect", "building", "interrupted"),
], 1, 2))
def test_what_builds_and_compiles_a_model_ends_in_words(command, where, words, tmp_path):
    (tmp_path / "blocking.py").write_text(BLOCKING)
    os.mkfifo(tmp_path / PIPE)
    more = ["--dataset=digits", "--epochs=1", "--workdir=run"] if command == "train" else []
    process = start(command, "--extension=blocking.py", "--model=blocking", f"--model_options=where={where}", *more,
                    cwd=tmp_path)
    assert interrupt(process, tmp_path / PIPE, signal.SIGINT) == (130, f"mirrorline {command}: {words}\n")
    assert os.path.exists(tmp_path / "run") == (where == "compiling")
