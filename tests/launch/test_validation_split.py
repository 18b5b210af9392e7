"""The commands on a folder with a validation split of its own, with a test split and without."""
import json

import pytest

from tests.commands import answers, metrics, result, succeed
from tests.data.test_folder import save

TRAIN = ("train", "--dataset=folder:photos", "--model=mlp", "--batch_size=4", "--augment=", "--steps=4",
         "--evaluate_every=2", "--tensorboard=scalars")


def add(folder, split, count):
    for label, name in enumerate(("cat", "dog")):
        for i in range(count):
            save(folder / "photos" / split / name / f"{i}.png", 200 * label + i)


@pytest.fixture
def photos(tmp_path):
    """A folder with `photos` that has train and test."""
    add(tmp_path, "train", 6)
    add(tmp_path, "test", 3)
    return tmp_path


def test_validation_selects_and_test_is_evaluated_at_the_end_only(photos):
    add(photos, "val", 4)
    done = succeed(*TRAIN, "--early_stopping_patience=5", "--workdir=run", cwd=photos)
    assert "12 training, 8 validation, 6 test examples" in done.stdout and "nothing is held out" in done.stdout
    assert [(r["step"], r["split"]) for r in metrics(photos / "run", "evaluation")] == [
        (2, "validation"), (4, "validation")]
    found = result(photos / "run")
    assert (found["selected_on"], found["test_examples"], found["validation_examples"]) == ("validation", 6, 8)
    finished, = [line for line in done.stdout.splitlines() if line.startswith("finished: ")]
    assert "test accuracy" in finished and "selects" not in finished


def test_without_a_test_split_validation_is_reported_as_validation(tmp_path):
    add(tmp_path, "train", 6)
    add(tmp_path, "val", 4)
    train, evaluate = (*TRAIN, "--tensorboard=full", "--workdir=run"), ("evaluate", "--workdir=run")
    (*codes, refused), (first, second, evaluated, _), (*_, errors) = zip(*answers([
        train, train, (*evaluate, "--verbosity=quiet", "--noreport"), (*evaluate, "--split=test")], tmp_path),
        strict=True)
    assert codes == [0, 0, 0]
    finished, = [line for line in first.splitlines() if line.startswith("finished: ")]
    assert "validation accuracy" in finished and "the validation split also selects the best checkpoint" in finished
    found = result(tmp_path / "run")
    assert [found[f"test_{name}"] for name in ("accuracy", "loss", "examples")] == [None] * 3
    assert found["validation_examples"] == 8 and found["validation_accuracy"] == metrics(
        tmp_path / "run", "evaluation")[-1]["accuracy"]
    assert (tmp_path / "run" / "tensorboard" / "final").is_dir()
    assert "is finished: step 4, validation accuracy" in second
    evaluated = json.loads(evaluated)
    assert (evaluated["split"], evaluated["accuracy"]) == ("validation", found["validation_accuracy"])
    assert refused == 2 and "no test split; use --split=validation" in errors


@pytest.mark.acceptance
def test_an_export_without_a_test_split_is_verified_on_the_validation_split(tmp_path):
    add(tmp_path, "train", 6)
    add(tmp_path, "val", 4)
    succeed(*TRAIN, "--workdir=run", cwd=tmp_path)
    succeed("export", "--workdir=run", "--format=weights", "--nolatency", cwd=tmp_path)
    exported = tmp_path / "run" / "export"
    proof = json.loads(next(exported.glob("weights/1/proof.json")).read_text())
    assert proof["proof"]["examples"] == 8
    assert "8 examples of the validation split" in next(exported.glob("weights/1/MODEL_CARD.md")).read_text()


@pytest.mark.acceptance
def test_a_run_begun_before_continues_as_begun_and_reports_it(photos):
    succeed(*TRAIN, "--workdir=run", cwd=photos)
    path = photos / "run" / "config.json"
    stored = json.loads(path.read_text())
    del stored["data"]["validation_from"]  # As it was written before validation splits were used.
    path.write_text(json.dumps(stored))
    add(photos, "val", 4)
    done = succeed(*TRAIN[:-2], "--workdir=run", "--steps=6", "--evaluate_every=2", cwd=photos)
    assert "resume  from the checkpoint of step 4" in done.stdout
    assert "'val' is not used, which was begun without" in done.stdout
    finished, = [line for line in done.stdout.splitlines() if line.startswith("finished: ")]
    assert "the test split also selects the best checkpoint" in finished
    found = result(photos / "run")
    assert (found["selected_on"], found["test_examples"], found["validation_accuracy"]) == ("test", 6, None)
    evaluated = succeed("evaluate", "--workdir=run", "--noreport", cwd=photos).stdout
    assert "on test: accuracy" in evaluated
