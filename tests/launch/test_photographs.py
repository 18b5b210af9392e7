"""Photographs from files to the step: killed and resumed, augmented on the host or in the step, of several sizes."""
import json
import re
import shutil
import signal
import time

import numpy as np
import pytest
from PIL import Image

from tests.commands import answers, kill_at_step, metrics, mirrorline, result, start, succeed
from tests.distributed.processes import ends, start_workers
from tests.selection import quick

TRAIN = ("train", "--dataset=folder:photographs", "--model=mlp", "--image_size=12", "--memory_budget=0", "--steps=12",
         "--batch_size=8", "--augment=resized_crop:0.3,flip,mixup", "--checkpoint_every=3", "--evaluate_every=6",
         "--steps_per_loop=1")

EVERYTHING = "--augment=resized_crop:0.3,flip,randaugment,mixup"


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder with `photographs`: JPEG files of several sizes, some turned, and some PNG and TIFF files."""
    folder = tmp_path_factory.mktemp("here")
    for part, count in (("train", 12), ("val", 3)):
        for label in range(2):
            inside = folder / "photographs" / part / f"class{label}"
            inside.mkdir(parents=True)
            for i in range(count):
                rng, exif = np.random.default_rng(100 * label + i), Image.Exif()
                exif[0x0112] = 1 + i % 8
                coarse = Image.fromarray(rng.integers(0, 256, (4, 5, 3), np.uint8))
                kind = ("jpg", "jpg", "png", "jpg", "tif")[i % 5]
                options = {"exif": exif} if kind == "jpg" else {}
                coarse.resize((40 + i, 30 + 2 * i)).save(inside / f"{i}.{kind}", **options)
    return folder


def cut(place, whole, name, step):
    """Copies a run as it was before its end: without its result, and with no checkpoint after `step`."""
    shutil.copytree(place / "runs" / whole, place / "runs" / name)
    (place / "runs" / name / "result.json").unlink()
    for path in (place / "runs" / name / "checkpoints").rglob("ckpt-*"):
        if path.name.partition(".")[0] != f"ckpt-{step}":
            path.unlink()
    return place / "runs" / name


@pytest.mark.parametrize("replicas", quick([1, 2], 0))
def test_the_host_the_step_and_a_resume_compute_the_same(place, replicas):
    """A run that lost its end goes on where it augments on the host."""
    line = (*TRAIN, "--steps=6", f"--replicas={replicas}", "--evaluate_every=6")
    succeed(*line, f"--workdir=runs/uninterrupted-{replicas}", "--augment_on=device", cwd=place)
    resumed = cut(place, f"uninterrupted-{replicas}", f"resumed-{replicas}", 3)
    done = succeed(*line, f"--workdir={resumed}", "--augment_on=host", cwd=place)
    assert "resume  from the checkpoint of step 3" in done.stdout
    assert result(resumed)["weights_sha256"] == result(place / "runs" / f"uninterrupted-{replicas}")["weights_sha256"]
    assert json.loads((resumed / "config.json").read_text())["preprocessing"]["version"] == 2


PLAIN = ("train", "--dataset=folder:photographs", "--model=mlp", "--image_size=12", "--batch_size=8", "--steps=8",
         "--augment=", "--checkpoint_every=6", "--evaluate_every=8")


@pytest.fixture(scope="module")
def decoded(place):
    """What the evaluations of runs/padded and of runs/stretched print, which have eight steps: [text, text]."""
    evaluate = ("evaluate", "--split=train", "--noreport")
    found = answers([(*PLAIN, "--workdir=runs/stretched"), (*PLAIN, "--resize=pad", "--workdir=runs/padded"),
                     (*evaluate, "--workdir=runs/padded"),
                     (*evaluate, "--workdir=runs/stretched", "--compare=runs/padded")], place)
    assert [code for code, *_ in found] == [0, 0, 0, 0], found
    return [printed for _, printed, _ in found[2:]]


def test_a_run_goes_on_with_the_decoding_it_began_with(place, decoded):
    """config.json of runs begun before there was a choice has no `preprocessing`: Pillow resizes for them."""
    path = cut(place, "stretched", "before", 6) / "config.json"
    stored = json.loads(path.read_text())
    assert stored.pop("preprocessing")["version"] == 2
    path.write_text(json.dumps(stored))
    refused = ("--resize=pad", "--augment=resized_crop", "--interpolation=bicubic")
    found = answers([
        (*PLAIN, "--workdir=runs/before"),
        *((*PLAIN, "--steps=10", "--workdir=runs/before", option, "--allow=steps,resize,augment,interpolation")
          for option in refused)], place)
    assert [code for code, *_ in found] == [0, 2, 2, 2], found
    assert json.loads(path.read_text())["preprocessing"]["version"] == 1
    assert result(place / "runs" / "before")["weights_sha256"] != result(place / "runs" / "stretched")["weights_sha256"]
    for option, (_, _, errors) in zip(refused, found[1:], strict=True):
        assert errors.startswith(f"mirrorline train: {option}: this run decodes its images as"), errors


def test_runs_to_compare_with_are_evaluated_on_their_own_images(decoded):
    """The same files, made into images in two ways: each run's accuracy is that of its own evaluation."""
    alone = float(re.search(r"accuracy (\S+)%", decoded[0])[1])
    compared = re.search(r"runs/padded\D+([0-9.]+)%", decoded[1])
    assert float(compared[1]) == round(alone, 2), decoded


LARGER = ("train", "--dataset=folder:photographs", "--image_size=20", "--batch_size=8", "--steps=2",
          "--eval_image_size=24", "--resize=pad")


def test_evaluation_of_another_size_is_refused_with_the_name_of_the_model(place):
    refused = mirrorline(*LARGER, "--model=mlp", "--workdir=runs/refused", cwd=place)
    assert refused.returncode == 2 and refused.stderr.count("\n") == 1
    assert "--eval_image_size=24: model mlp takes images of one size alone" in refused.stderr
    assert not (place / "runs" / "refused").exists()


@pytest.mark.acceptance
def test_evaluation_of_another_size_reaches_prediction(place):
    trained, shown = answers([(*LARGER, "--model=three_apis", "--workdir=runs/larger"),
                              ("predict", "--workdir=runs/larger", "photographs/val", "--output=p.csv")], place)
    assert trained[0] == 0 and shown[0] == 0, (trained, shown)
    stored = json.loads((place / "runs" / "larger" / "config.json").read_text())
    assert stored["preprocessing"]["image_shape"] == [24, 24, 3] and stored["data"]["image_shape"] == [20, 20, 3]
    assert len((place / "p.csv").read_text().splitlines()) == 7


@pytest.mark.acceptance
@pytest.mark.parametrize("replicas", [1, 2])
def test_twenty_kills_of_twenty_are_bit_equal(place, replicas):
    more = (f"--replicas={replicas}", "--steps=44", EVERYTHING)
    whole, cut = f"runs/whole{replicas}", f"runs/cut{replicas}"
    succeed(*TRAIN, *more, f"--workdir={whole}", cwd=place)
    for kill in range(1, 21):
        process = start(*TRAIN, *more, f"--workdir={cut}", cwd=place)
        code, errors = kill_at_step(process, place / cut, 2 * kill)
        assert code == -9, errors
    succeed(*TRAIN, *more, f"--workdir={cut}", cwd=place)
    assert result(place / cut)["weights_sha256"] == result(place / whole)["weights_sha256"]


@pytest.mark.acceptance
def test_twenty_kills_of_two_workers_are_bit_equal_with_one_process(place):
    """Each time another worker is killed; the rest gives up, and the same command goes on."""
    more = (*TRAIN, "--steps=44", EVERYTHING, "--start_timeout=120")
    succeed(*more, "--replicas=2", "--workdir=runs/alone", cwd=place)
    for kill in range(1, 21):
        workers = start_workers(2, *more, "--workdir=runs/two", cwd=place)
        while all(worker.poll() is None for worker in workers) and not any(
                record["step"] >= 2 * kill for record in metrics(place / "runs" / "two")):
            time.sleep(0.02)
        workers[kill % 2].send_signal(signal.SIGKILL)
        codes = [code for _, code in ends(workers, timeout=600)]
        assert codes[kill % 2] == -signal.SIGKILL and codes[1 - kill % 2] == 76, codes
    assert [code for _, code in ends(start_workers(2, *more, "--workdir=runs/two", cwd=place))] == [0, 0]
    assert result(place / "runs" / "two")["weights_sha256"] == result(place / "runs" / "alone")["weights_sha256"]
