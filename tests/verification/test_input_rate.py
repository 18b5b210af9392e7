"""The doctor's measurement of a data set: a real folder, what GPUs would need, and bad data sets."""
import os
import re

import numpy as np
import pytest
from PIL import Image

from pipeline.config import ExperimentConfig
from pipeline.verification import input_rate
from pipeline.verification.installation import OK, WARNING
from tests.commands import answers, start
from tests.data.numbered import prepare


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Twelve JPEG files of 40x30, of which one in two is of class a."""
    path, draw = tmp_path_factory.mktemp("images"), np.random.default_rng(0)
    for number in range(12):
        split = "train" if number < 8 else "test"
        (path / split / "ab"[number % 2]).mkdir(parents=True, exist_ok=True)
        image = Image.fromarray(draw.integers(0, 256, (30, 40, 3), np.uint8))
        image.save(path / split / "ab"[number % 2] / f"{number}.jpg")
    return path


def test_the_doctor_measures_a_folder_and_refuses_bad_ones(folder, tmp_path):
    (tmp_path / "empty").mkdir()
    asked = [f"--cache_dir={tmp_path}", f"--workdir={tmp_path}/run"]
    process = start("doctor", f"--dataset=folder:{folder}", "--image_size=24", "--augment=resized_crop,flip",
                    "--batch_size=4", "--memory_budget=0", *asked, cwd=tmp_path)
    os.sched_setaffinity(process.pid, {min(os.sched_getaffinity(0))})  # It keeps every core busy for two seconds.
    printed, errors = process.communicate(timeout=600)
    nowhere, no_classes, sizes, strength, alone = answers([
        ["doctor", f"--dataset=folder:{tmp_path}/nowhere", *asked],
        ["doctor", f"--dataset=folder:{tmp_path}/empty", *asked],
        ["doctor", "--dataset=digits", "--batch_size=0", *asked],
        ["doctor", f"--dataset=folder:{folder}", "--image_size=24", "--augment=crop:20", *asked],
        ["doctor", "--image_size=24", *asked]], tmp_path)
    assert (process.returncode, errors) == (0, "")
    printed = " ".join(printed.split())
    found = re.search(r"ok input folder:\S+: ([\d,.]+) images/s of 24x24 decoded while training, in batches of 4 on "
                      r"1 core, --augment=resized_crop,flip; measured for 2 s", printed)
    assert float(found[1].replace(",", "")) > 0
    assert "ResNet-50 in mixed precision trains on 110,000 (V100), 210,000 (A100) and 390,000 (H100) images/s" in (
        printed)
    assert "estimated by pixels from figures for 224x224" in printed and printed.endswith("Training will work here.")
    for code, output, errors in (nowhere, no_classes, sizes, strength, alone):
        assert (code, output, errors.count("\n")) == (2, "", 1), errors
    assert "there is no such folder" in nowhere[2] and "--batch_size" in sizes[2] and "--augment=crop:20" in strength[2]
    assert "--image_size belongs to a data set whose input is measured: give --dataset too" in alone[2]


def test_images_in_memory_are_measured():
    config = ExperimentConfig.from_flat({"dataset": "digits", "augment": ("flip",), "augment_on": "device"})
    found, compared = input_rate.check_input(config, [], 0.05)
    assert re.fullmatch(r"digits: [\d,.]+ images/s of 28x28 from memory, in batches of 64 on \d+ cores?, "
                        r"--augment=flip \(pixels: inside the step\); measured for 0\.05 s", found.text)
    assert compared.state == OK


def test_a_tensorflow_data_set_is_measured(tmp_path):
    config = ExperimentConfig.from_flat({"dataset": "numbered", "data_dir": str(prepare(tmp_path)), "memory_budget": 0})
    found = input_rate.check_input(config, [], 0.05)[0]
    assert found.state == OK and "numbered: " in found.text and " decoded while training" in found.text


@pytest.mark.parametrize("rate, shape, gpus, state, text", [
    (2_000, (224, 224, 3), [], OK,
     "trains on 1,270 (V100), 2,375 (A100) and 4,500 (H100) images/s of this size (published; H100: estimated): input "
     "limits training to 84% (A100) and 44% (H100) of that"),
    (500, (448, 224, 3), [], OK,
     "635 (V100), 1,188 (A100) and 2,250 (H100) images/s of this size (estimated by pixels from figures for 224x224): "
     "input limits training to 79% (V100), 42% (A100) and 22% (H100) of that"),
    (9_000, (224, 224, 3), [], OK, ": input is faster"),
    (3_000, (224, 224, 3), ["NVIDIA A100-SXM4-80GB, 80 GiB"] * 2, WARNING,
     "trains on 4,750 (2 A100) images/s of this size (published): input limits training to 63% (2 A100) of that"),
    (9_000, (224, 224, 3), ["NVIDIA H100 80GB HBM3, 80 GiB"], OK,
     "4,500 (1 H100) images/s of this size (estimated): input is faster"),
    (900, (224, 224, 3), ["NVIDIA T4"], OK, "(V100)"),
])
def test_input_and_gpus_are_compared(rate, shape, gpus, state, text):
    found = input_rate.compare(rate, shape, gpus)
    assert found.state == state and text in found.text
    assert bool(found.remedy) == (state == WARNING)
