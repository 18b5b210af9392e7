"""Any valid file name works for runs, exports, data and given files."""
import os
import pathlib
import re
import shutil

import numpy as np
import pytest
from PIL import Image
from tensorboard.backend.event_processing.plugin_event_multiplexer import EventMultiplexer

from pipeline.config import DataConfig
from pipeline.data.load import load
from pipeline.export import weight_sources
from pipeline.stored_checkpoint import find_checkpoint, stored_checkpoints
from pipeline.training.checkpoint import CheckpointStore
from pipeline.training.stored_weights import load_weights
from tests.commands import answers, metrics, succeed
from tests.data.numbered import prepare
from tests.selection import quick
from tests.test_structure import SOURCES
from tests.training.small import build, run, weights

# Of each the name of a neighbour that it stands for where it is taken for a pattern, "" for none.
NAMES = {"lr=[1e-3]": "lr=1", "[!a]": "b", "a*": "abc", "a?c": "abc", "a\\b": "ab", "n" * 230: "",
         "-{a,b} '\"#%d$HOME:;&|~@= line\nline übung 日本 e\u0301]": "a"}
ODDEST = "lr=[1e-3] *?\\ {a} $HOME #1 %d 'q' \"p\" é"


@pytest.fixture(scope="module")
def experiment(strategy):
    return build(strategy(1), precision="float32")


@pytest.mark.parametrize("name", quick(list(NAMES), 0, 6))
def test_checkpoints_are_read_and_removed_without_their_neighbours(experiment, tmp_path, name):
    folder, neighbours = tmp_path / name / "checkpoints", tmp_path / (NAMES[name] or "other") / "checkpoints"
    neighbours.mkdir(parents=True)
    for suffix in ("index", "data-00000-of-00001"):
        (neighbours / f"ckpt-1.{suffix}").write_text("of another run")
    store = CheckpointStore(str(folder), experiment.state, keep=1)
    for step in (1, 2):
        run(experiment, 1, start=step)
        store.save(step, best=step == 1)
    store.sync()
    saved = weights(experiment)
    assert {p.name.split(".")[0] for p in folder.iterdir()} == {"checkpoint", "ckpt-2", "best"}
    assert len(list(neighbours.iterdir())) == 2
    assert "/" not in (folder / "checkpoint").read_text()
    run(experiment, 1)
    assert store.restore() == 2
    assert all(map(np.array_equal, weights(experiment), saved))
    assert find_checkpoint(str(folder), "best").step == 1
    run(experiment, 1)
    load_weights(experiment.state.model, str(folder), "latest")
    assert all(map(np.array_equal, weights(experiment), saved))
    read = weight_sources.WeightSource("checkpoint", stored_checkpoints(str(folder))[0].path).read()
    assert all(map(np.array_equal, read.values(), saved))


def images(folder):
    """Writes two classes of small images below a folder."""
    for part in ("train", "test"):
        for label, name in enumerate(("cat", "dog")):
            target = pathlib.Path(folder) / part / name
            target.mkdir(parents=True)
            for number in range(4):
                Image.fromarray(np.full((8, 8), 200 * label + number, np.uint8)).save(target / f"{number}.png")


def test_every_command_works_in_folders_with_special_characters(tmp_path):
    images(tmp_path / ODDEST)
    dataset = f"--dataset=folder:{ODDEST}"
    train = ("train", dataset, "--model=mlp", "--batch_size=4", "--checkpoint_every=1", "--keep_checkpoints=1",
             "--schedule=constant", "--tensorboard=scalars", "--quiet")
    workdir = tmp_path / "runs" / f"{ODDEST}-mlp"
    begun, more = answers([(*train, "--steps=2"), (*train, "--steps=4", "--allow=steps")], tmp_path)
    assert (begun[0], more[0]) == (0, 0), (begun, more)
    assert [record["step"] for record in metrics(workdir, "train")] == [1, 2, 3, 4]
    assert len(stored_checkpoints(str(workdir / "checkpoints"))) == 1
    shutil.move(workdir, tmp_path / "runs" / f"moved {ODDEST}")
    given = f"--workdir=runs/moved {ODDEST}"
    found = answers([
        ("evaluate", given, f"--report=report {ODDEST}"),
        ("predict", given, f"--output={ODDEST}.csv", f"{ODDEST}/test")], tmp_path)
    assert [code for code, _, _ in found] == [0, 0], found
    assert (tmp_path / f"report {ODDEST}" / "index.html").exists()
    assert len((tmp_path / f"{ODDEST}.csv").read_text().splitlines()) == 9
    boards = EventMultiplexer()
    boards.AddRunsFromDirectory(str(tmp_path / "runs" / f"moved {ODDEST}"))
    assert "tensorboard/train" in boards.Runs()


@pytest.mark.acceptance
def test_an_export_works_in_folders_with_special_characters(tmp_path):
    images(tmp_path / ODDEST)
    train = ("train", f"--dataset=folder:{ODDEST}", "--model=mlp", "--batch_size=4", "--steps=1", "--quiet")
    succeed(*train, f"--workdir=runs/{ODDEST}", cwd=tmp_path)
    exported = succeed("export", f"--workdir=runs/{ODDEST}", f"--output=export {ODDEST}", "--format=saved_model",
                       "--nolatency", cwd=tmp_path)
    assert "move the SavedModel" in exported.stdout
    succeed(*train, "--workdir=after", f"--initialize_from=export {ODDEST}/saved_model/1", cwd=tmp_path)


CALLS = re.compile(r"tf\.train\.(load_checkpoint|CheckpointManager|load_variable|list_variables|latest_checkpoint)\(|"
                   # Of "." in text for users.
                   r"heckpoint\.(read|restore)\(|tf\.saved_model\.load\((?!\"\.\")|gfile\.glob\(")


def test_paths_are_passed_literally_to_tensorflow():
    found = {path: [text[max(0, call.start() - 120):call.end() + 40] for call in CALLS.finditer(text)]
             for path, text in SOURCES.items()}
    assert sum(map(len, found.values())) > 5
    assert [(path, text) for path, texts in found.items() for text in texts if "literal(" not in text] == []


def test_tensorflow_datasets_in_a_folder_with_special_characters(tmp_path):
    prepare(tmp_path / ODDEST)
    for budget in (0, 100):
        source = load(DataConfig(dataset="numbered", data_dir=str(tmp_path / ODDEST), memory_budget=budget,
                                 cache_dir=str(tmp_path / "cache [1]")), 4)
        assert source.train.num_examples
    assert os.listdir(tmp_path / "cache [1]")
