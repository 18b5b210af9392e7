"""The memory of a stream is the same however long it runs and however often the step pauses."""
import json

import numpy as np
import pytest
from PIL import Image

from tests.commands import mirrorline
from tests.selection import quick


def measured(*arguments, cwd):
    done = mirrorline(*arguments, cwd=cwd, module="tests.data.stream_memory")
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


@pytest.mark.parametrize("augment, first, last", quick([
    ("resized_crop,flip", 400, 1600), ("resized_crop,flip", 2000, 10_000), ("", 2000, 10_000)]))
def test_a_long_stream_of_files_takes_no_more_memory_than_a_short_one(augment, first, last, tmp_path):
    """4 MiB are less than 4 KiB for each of 1,200 batches, or 525 bytes for each of 8,000; an image has 192."""
    draw = np.random.default_rng(0)
    for number in range(40):
        path = tmp_path / ("train" if number < 32 else "test") / "ab"[number % 2] / f"{number}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(draw.integers(0, 256, (12, 16, 3), np.uint8)).save(path)
    before, after = measured(tmp_path, augment, first, last, cwd=tmp_path)
    assert after - before < 4


def test_the_buffer_of_a_stream_does_not_grow_with_pauses_of_the_step(tmp_path):
    """As for an evaluation: then the buffer fills, and after it the step empties it faster than it is filled.

    It may have 16 batches of 0.84 MiB; one that doubles with each pause has hundreds.
    """
    found = measured(8, cwd=tmp_path)
    assert found[-1] - found[0] < 20
