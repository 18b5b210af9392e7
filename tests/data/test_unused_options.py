"""Options that change nothing are named: a warning, or a refusal where they contradict another."""
import numpy as np
import pytest
from PIL import Image

from pipeline.augmentation import check_place
from pipeline.config import DataConfig
from pipeline.console import Console
from pipeline.data.load import load
from pipeline.data.unused_options import READ_BY, warn_unused
from pipeline.errors import UsageError
from tests.data.numbered import prepare


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Images of one size, 8x8, in `same`; of two in `mixed`."""
    place = tmp_path_factory.mktemp("images")
    for name, sizes in (("same", (8, 8)), ("mixed", (8, 9))):
        for part in ("train", "test"):
            for label in "ab":
                (place / name / part / label).mkdir(parents=True)
                for i, size in enumerate(sizes):
                    pixels = np.full((size, 8, 3), 40 * i, np.uint8)
                    Image.fromarray(pixels).save(place / name / part / label / f"{i}.png")
    return place


def warned(capfd, dataset, **options):
    config = DataConfig(dataset=dataset, **options)
    source = load(config, 2, Console(quiet=True))
    capfd.readouterr()
    warn_unused(config, source, Console(quiet=True))
    return capfd.readouterr().err.splitlines()


ELSEWHERE = {"data_dir": "/nowhere", "memory_budget": 0, "cache_dir": "/dev/null/cache", "skip_unreadable": True,
             "columns": ("label:x",), "image_root": "/nowhere"}


@pytest.mark.parametrize("kind, unused", [
    ("digits", {*READ_BY}), ("synthetic:8x8x1", {*READ_BY}), ("folder", {"data_dir", "columns", "image_root"}),
    ("numbered", {"skip_unreadable", "columns", "image_root"})])
def test_options_that_a_kind_of_data_set_does_not_read(kind, unused, folder, tmp_path, capfd):
    options = dict(ELSEWHERE)
    if kind == "numbered":
        prepare(tmp_path)
        options["data_dir"] = str(tmp_path)
    lines = warned(capfd, f"folder:{folder}/same" if kind == "folder" else kind, **options)
    assert {line.split("--")[1].split("=")[0].split()[0] for line in lines} == unused
    assert all("has no effect: it is for " in line for line in lines)


@pytest.mark.parametrize("options, expected", [
    ({"interpolation": "bicubic"}, "--interpolation=bicubic has no effect: every file has 8x8 pixels, and no"),
    ({"resize": "pad"}, "--resize=pad has no effect: every file has 8x8 pixels, and no"),
    ({"interpolation": "bicubic", "image_size": 8}, "has no effect: every file has 8x8 pixels already"),
    ({"eval_image_size": 8}, "--eval_image_size=8 has no effect: images of training are 8x8 too"),
    ({"augment_on": "device"}, "--augment_on=device has no effect: there is no --augment"),
    ({"augment_on": "host", "augment": ("flip",), "cache": "device"}, "has no effect: with --cache=device the step"),
    ({"resize": "crop:0.5", "interpolation": "bicubic"}, None), ({"interpolation": "bicubic", "image_size": 6}, None),
    ({"interpolation": "bicubic", "eval_image_size": 6}, None),
    ({"interpolation": "bicubic", "augment": ("resized_crop",), "memory_budget": 0}, None),
    ({"augment_on": "host", "augment": ("flip",)}, None)])
def test_options_without_effect_on_these_images(options, expected, folder, capfd):
    lines = warned(capfd, f"folder:{folder}/same", **options)
    assert len(lines) == bool(expected)
    assert all(line.startswith("note    --") and expected in line for line in lines)


def test_what_is_part_of_decoding_is_augmented_nowhere_else(folder, capfd):
    options = {"augment_on": "device", "image_size": 8}
    (line,) = warned(capfd, f"folder:{folder}/mixed", augment=("resized_crop", "flip"), **options)
    assert line.endswith("--augment_on=device has no effect: resized_crop and flip are part of decoding")
    assert not warned(capfd, f"folder:{folder}/mixed", augment=("resized_crop", "flip", "color"), **options)


def test_places_that_contradict_each_other_are_refused():
    with pytest.raises(UsageError, match="^--augment_on=host contradicts --cache=device"):
        check_place(DataConfig(augment=("flip",), augment_on="host", cache="device"))
    check_place(DataConfig(augment=("flip",), augment_on="device", cache="device"))
