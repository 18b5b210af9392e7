"""A run that hangs for real: the disk never answers for one image, as a network disk does that has gone."""
import json
import os
import re
import time

import numpy as np
import pytest
from PIL import Image

from tests.commands import assert_every_step_once, metrics, mirrorline, start

STEPS = 60
# Two steps an epoch: soon every image is wanted again.
COMMAND = ("train", "--dataset=folder:images", "--memory_budget=0", "--model=mlp", "--batch_size=8", "--replicas=2",
           "--cross_device_reduction=tree", f"--steps={STEPS}", "--evaluate_every=30", "--checkpoint_every=10",
           "--steps_per_loop=1", "--extension=slow.py")
# As a disk that does not answer: while there is a pipe, whatever opens an image waits for somebody who writes.
SLOW = """
import os
from PIL import Image

opened = Image.open

def open_later(*arguments, **options):
    if os.path.exists("pipe"):
        open("pipe").read()
    return opened(*arguments, **options)

Image.open = open_later
"""
TIMEOUT = 40  # Seconds; the first step, which is traced and compiled, takes a tenth of it on a busy machine.


def draw_images(folder):
    """Writes 16 training and 4 test images of two classes, and the extension."""
    for part, count in (("train", 8), ("test", 2)):
        for label, name in enumerate(("dark", "light")):
            target = folder / part / name
            target.mkdir(parents=True)
            for number in range(count):
                pixels = np.random.RandomState(number).randint(0, 128, (8, 8, 3)) + 127 * label
                Image.fromarray(pixels.astype(np.uint8)).save(target / f"{number}.png")
    (folder.parent / "slow.py").write_text(SLOW)


@pytest.mark.acceptance  # tests/training/test_watchdog.py has it in short processes.
def test_a_run_that_hangs_ends_with_its_stacks_and_is_resumed(tmp_path):
    draw_images(tmp_path / "images")
    run = tmp_path / "run"
    process = start(*COMMAND, "--workdir=run", f"--hang_timeout={TIMEOUT}", cwd=tmp_path)
    while not any(record["step"] >= 20 for record in metrics(run, "train")):
        assert process.poll() is None, process.stderr.read()
        time.sleep(0.02)
    os.mkfifo(tmp_path / "pipe")
    _, errors = process.communicate(timeout=600)

    assert process.returncode == 1
    reached = metrics(run, "train")[-1]["step"]
    assert 20 <= reached < STEPS
    assert re.fullmatch(r"mirrorline: nothing finished for \d+ s after .*; the stacks of its threads are in "
                        r"run/hang.txt; run the same command again to continue.*\n", errors), errors
    assert f"step {reached}, so the process ends" in errors
    report = (run / "hang.txt").read_text()
    assert f"step {reached}, then nothing for " in report and f"process    {process.pid} on " in report
    assert "ReductionToOneDevice over 2 CPU replicas" in report
    assert "in read_image\n" in report and "in train\n" in report  # Who waits for the disk, and who for the data.
    last = json.loads((run / "launches.jsonl").read_text().splitlines()[-1])
    assert last["event"] == "hang" and last["seconds"] >= TIMEOUT and f"step {reached}" in last["progress"]

    (tmp_path / "pipe").unlink()
    resumed = mirrorline(*COMMAND, "--workdir=run", cwd=tmp_path)
    assert resumed.returncode == 0, resumed.stderr
    assert 0 < int(re.search(r"resume .* step (\d+)", resumed.stdout)[1]) <= reached
    assert_every_step_once(run, STEPS)
