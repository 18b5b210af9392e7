"""A user's own table of images: columns, splits, groups, and what is wrong by its line."""
import json
import os

import numpy as np
import pyarrow
import pyarrow.parquet
import pytest

from pipeline.config import DataConfig, ExperimentConfig
from pipeline.console import Console
from pipeline.data.load import load
from pipeline.errors import UsageError
from tests.commands import mirrorline
from tests.data.test_folder import pixels, save

LABELS = ("cat", "dog")


@pytest.fixture(scope="module")
def photographs(tmp_path_factory):
    """24 images of 8x6 in the folder `images`, 12 of a class, each of a colour of its own; four of a patient."""
    folder = tmp_path_factory.mktemp("tables")
    for i in range(24):
        save(folder / "images" / f"{i:02}.png", 10 * i)
    (folder / "notes.txt").write_text("no image")
    (folder / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\n broken")
    return folder


def rows():
    """The rows of a table of these images: a split, a group, and a column that nobody asked for."""
    return [{"Image Path": f"images/{i:02}.png", "Diagnosis": LABELS[i % 2], "patient_id": f"p{i // 4}", "age": 30 + i,
             "split": ("train", "val", "test")[i // 4 % 3]} for i in range(24)]


def write(path, found, delimiter=","):
    """Writes rows as the suffix of the path says."""
    names = list(found[0])
    if path.suffix == ".parquet":
        pyarrow.parquet.write_table(pyarrow.Table.from_pylist(found), path)
    elif path.suffix == ".jsonl":
        path.write_text("".join(json.dumps(row) + "\n" for row in found))
    elif path.suffix == ".json":
        path.write_text(json.dumps(found))
    else:
        lines = [names, *([row[name] for name in names] for row in found)]
        path.write_text("\ufeff" + "".join(delimiter.join(map(str, line)) + "\r\n" for line in lines), encoding="utf-8")
    return path


def loaded(path, **options):
    return load(DataConfig(dataset=f"table:{path}", **options), 4, console=Console(quiet=True))


def shown(source):
    """Returns {split: [(number of the image, class)]}."""
    found = {}
    for split in (source.train, source.validation, source.test):
        if split is not None:
            images, labels = pixels(split)
            found[split.name] = sorted((int(image[0, 0, 0]) // 10, source.class_names[label]) for image, label in zip(
                images, labels, strict=True))
    return found


@pytest.mark.parametrize("suffix, delimiter", [(".csv", ","), (".csv", ";"), (".tsv", "\t"), (".json", ""),
                                               (".jsonl", ""), (".parquet", "")])
def test_every_form_of_table_gives_its_rows(photographs, tmp_path, suffix, delimiter):
    path = write(tmp_path / f"labels{suffix}", rows(), delimiter)
    source = loaded(path, image_root=str(photographs))
    wanted = {"train": [], "validation": [], "test": []}
    for i in range(24):
        wanted[("train", "validation", "test")[i // 4 % 3]].append((i, LABELS[i % 2]))
    assert shown(source) == wanted
    assert source.class_names == LABELS and source.name == f"table:{path}"
    assert source.notes[0] == "columns of the table that are not used: age"
    assert source.train.files[0] == "images/00.png"


def test_what_spreadsheets_add_is_no_part_of_the_table(photographs, tmp_path):
    wanted = shown(loaded(write(tmp_path / "plain.csv", rows()), image_root=str(photographs)))
    text = (tmp_path / "plain.csv").read_text(encoding="utf-8-sig").replace("images/", "images\\")
    lines = ["sep=,", *(line + ",," for line in text.splitlines()), "", ",,,,,,"]
    (tmp_path / "saved.csv").write_text("\r\n".join(lines), encoding="utf-8")
    assert shown(loaded(tmp_path / "saved.csv", image_root=str(photographs))) == wanted
    (tmp_path / "saved.csv").write_text("\r\n".join(lines).replace("15.png,dog", "15.png,"), encoding="utf-8")
    with pytest.raises(UsageError, match="saved.csv, line 18: no label"):
        loaded(tmp_path / "saved.csv", image_root=str(photographs))


def test_rows_in_another_order_are_the_same_data_and_another_label_is_not(photographs):
    found = rows()
    first = loaded(write(photographs / "a.csv", found))
    assert loaded(write(photographs / "b.csv", found[::-1])).fingerprint == first.fingerprint
    found[5]["Diagnosis"] = "cat"
    assert loaded(write(photographs / "c.csv", found)).fingerprint != first.fingerprint


@pytest.mark.parametrize("splits", [False, True])
def test_without_a_test_split_whole_groups_are_held_out_with_every_class(photographs, splits):
    found = [{**row, "split": "train"} if splits else {k: v for k, v in row.items() if k != "split"} for row in rows()]
    path = write(photographs / f"grouped{splits}.csv", found)
    source = loaded(path, validation_split=0.3)
    parts = {name: {i // 4 for i, _ in members} for name, members in shown(source).items()}
    assert parts["test"].isdisjoint(parts["train"]) and len(parts["test"]) == 2 and len(parts["train"]) == 4
    assert set(np.unique(source.test.labels)) == {0, 1}
    assert shown(loaded(path, validation_split=0.3)) == shown(source)
    with pytest.raises(UsageError, match="holds out whole groups, one of 10 equal parts, and there are only 6 groups"):
        loaded(path, validation_split=0.1)


@pytest.mark.parametrize("grouped", [True, False])
def test_each_fold_is_a_part_of_one_division(photographs, grouped):
    unused = ("split",) if grouped else ("split", "patient_id")
    path = write(photographs / f"folds{grouped}.csv", [{k: v for k, v in row.items() if k not in unused}
                                                      for row in rows()])
    sources = [loaded(path, fold=f"{number}/3") for number in (1, 2, 3)]
    parts = [shown(source) for source in sources]
    held_out = [example for part in parts for example in part["test"]]
    assert sorted(held_out) == [(i, LABELS[i % 2]) for i in range(24)]
    for part in parts:
        assert sorted(part["train"] + part["test"]) == sorted(held_out)
        assert sum(label == "cat" for _, label in part["test"]) == 4
        assert not grouped or {i // 4 for i, _ in part["test"]}.isdisjoint(i // 4 for i, _ in part["train"])
    assert len({source.fingerprint for source in sources}) == 3
    assert shown(loaded(path, fold="2/3")) == parts[1]
    with pytest.raises(UsageError, match=f"--fold=1/30 holds out .*only {'6 groups' if grouped else '24 examples'} in"):
        loaded(path, fold="1/30")


def test_a_fold_of_a_data_set_with_splits_selects_the_checkpoint_unless_another_does(photographs):
    found = [{**row, "split": "test" if i >= 20 else "train"} for i, row in enumerate(rows())]
    source = loaded(write(photographs / "tested.csv", found), fold="2/5")
    assert (source.train.num_examples, source.validation.num_examples, source.test.num_examples) == (16, 4, 4)
    with pytest.raises(UsageError, match="--fold=2/5: data set .* has a validation split of its own"):
        loaded(write(photographs / "whole.csv", rows()), fold="2/5")
    for text in ("0/5", "6/5", "2", "1/1", "a/b"):
        with pytest.raises(UsageError, match=f"--fold={text}: give NUMBER/PARTS"):
            ExperimentConfig.from_flat({"fold": text})
    with pytest.raises(UsageError, match="--fold=1/5 and --validation_split=0.1 both hold out"):
        ExperimentConfig.from_flat({"fold": "1/5", "validation_split": 0.1})


def test_rows_without_a_group_are_divided_one_by_one_and_classes_that_are_numbers_are_in_order(photographs):
    found = [{"file": row["Image Path"], "class": 2 + 8 * (i % 2), "group": ""} for i, row in enumerate(rows())]
    source = loaded(write(photographs / "numbers.csv", found), validation_split=0.25)
    assert source.class_names == ("2", "10") and source.train.groups is None
    assert (source.train.num_examples, source.test.num_examples) == (18, 6)


def test_columns_are_chosen_by_flags_and_a_class_only_in_the_test_split_is_told(photographs):
    found = [{"a": row["Image Path"], "b": "bird" if i > 21 else row["Diagnosis"], "path": "x",
              "split": "test" if i > 15 else "train"} for i, row in enumerate(rows())]
    source = loaded(write(photographs / "chosen.csv", found), columns=("path:a", "label:b"))
    assert source.class_names == ("bird", *LABELS) and source.train.num_examples == 16
    assert "no example to train on of 1 class of the test split, such as 'bird'" in source.notes[-1]


def altered(number, **cells):
    found = rows()
    found[number].update(cells)
    return found


BROKEN = [
    (altered(3, **{"Image Path": "images/none.png"}), "line 5: cannot read .*images/none.png: "),
    (altered(3, **{"Image Path": "notes.txt"}), "line 5: cannot read .*notes.txt: it is no image"),
    (altered(3, **{"Image Path": "broken.png"}), "line 5: cannot read .*broken.png: "),
    (altered(3, **{"Image Path": "images"}), "line 5: cannot read .*images: it is no image"),
    (altered(3, **{"Image Path": "https://a.b/c.png"}), "line 5: https://a.b/c.png is an address: download"),
    (altered(3, **{"Image Path": "a\0b.png"}), "line 5: the path has a zero byte in it"),
    (altered(3, **{"Image Path": " "}), "line 5: no path"), (altered(3, Diagnosis=""), "line 5: no label"),
    (altered(3, split="holdout"), "line 5: the split is 'holdout'; known: train, validation, test"),
    (altered(3, split=""), "line 5: the split is ''"),
    (altered(3, **{"Image Path": "images/../images/02.png"}), "line 5: images/../images/02.png is in line 4 too: keep"),
    (altered(4, **{"Image Path": "images/03.png"}),
     "line 6: images/03.png is in line 5 too, there in split train, here in validation: keep one"),
    (altered(3, Diagnosis="lynx"), "line 5: the only image of class 'lynx': a class needs two"),
    (altered(4, patient_id="p0"), "line 6: group 'p0' is in split validation, and in line 2 in train"),
    ([{**row, "Diagnosis": "cat"} for row in rows()], "has one class, 'cat'"),
    ([{**row, "split": "test", "patient_id": ""} for row in rows()], "no row has the split train, in column split"),
    ([{**row, "split": "train"} for row in rows()], "has no test or validation rows: give --validation_split=0.2"),
    ([{k: v for k, v in row.items() if k != "Diagnosis"} for row in rows()],
     "has no column for the label, such as label, labels, class; it has Image Path, patient_id, age, split: give"),
    ([{**row, "file": "x"} for row in rows()], "has several columns for the path, Image Path and file: give "),
]


@pytest.mark.parametrize("found, message", BROKEN, ids=lambda value: value if isinstance(value, str) else "")
def test_what_is_wrong_in_a_table_is_named_by_its_line(photographs, found, message):
    with pytest.raises(UsageError, match=message):
        loaded(write(photographs / "broken.csv", found), cache_dir=str(photographs / "cache"))


@pytest.mark.parametrize("name, content, message", [
    ("a.csv", "path,label\n", "has no rows below its header"), ("a.csv", "", "is empty: a table has a"),
    ("a.csv", "images/00.png,cat\n", "has no column for the path"), ("a.json", "[]", "is empty: a table has a header"),
    ("a.csv", "path,label\nimages/00.png,a,b\n", "line 2: 3 cells, and the header has 2: put a cell with a ','"),
    ("a.csv", "path,label,label\nx,y,z\n", "has 2 columns called 'label': rename one"),
    ("a.csv", b"path,label\n\xff,a\n", "is not UTF-8 at byte 11: save it as UTF-8"),
    ("a.jsonl", '{"path": "x", "label": 1}\n[3]\n', r"line 2: found \[3\]; wanted an object"),
    ("a.jsonl", '{"path": "x", "label": 1}\n{"path"\n', "line 2: no JSON: "),
    ("a.jsonl", '{"path": ["x"], "label": 1}', r"line 1: path is \['x'\]; wanted text or a number"),
    ("a.parquet", "no", "cannot be read as Parquet: "), ("a.xlsx", "", "a table ends in .csv, .tsv, .json, .jsonl or "),
    ("none.csv", None, "cannot read --dataset=table:.*none.csv: no such file or directory")])
def test_what_is_no_table_is_one_line(tmp_path, name, content, message):
    if content is not None:
        (tmp_path / name).write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(UsageError, match=message):
        loaded(tmp_path / name)


def test_a_folder_that_is_not_there_is_said_once(photographs):
    with pytest.raises(UsageError, match="--image_root=.*/none: there is no such folder; the paths in .*a.csv are"):
        loaded(write(photographs / "a.csv", rows()), image_root=str(photographs / "none"))


def test_unreadable_images_of_a_table_can_be_skipped(photographs):
    found = altered(3, **{"Image Path": "images/none.png"})
    found[7]["Image Path"] = "notes.txt"
    path = write(photographs / "skipped.csv", found)
    for memory_budget in (100, 0):
        source = loaded(path, skip_unreadable=True, memory_budget=memory_budget)
        images, labels = pixels(source.train)
        assert [(int(image[0, 0, 0]) // 10, label) for image, label in zip(images, labels, strict=True)] == [
            (0, 0), (1, 1), (2, 0), (12, 0), (13, 1), (14, 0), (15, 1)]
        assert (source.train.num_examples, source.validation.num_examples, source.test.num_examples) == (7, 7, 8)
        assert any(note.startswith("skipped 2 unreadable images: ") for note in source.notes)


def test_the_command_trains_on_a_table_and_what_predict_wrote_is_one(photographs, tmp_path):
    table = write(photographs / "whole.csv", rows())
    options = ("--model=mlp", "--image_size=8", "--steps=2", "--batch_size=8", "--verbosity=quiet")
    run = mirrorline("train", f"--dataset=table:{table}", "--workdir=first", "--tensorboard=scalars", *options,
                     cwd=tmp_path)
    assert run.returncode == 0, run.stderr
    predicted = mirrorline("predict", "--workdir=first", os.path.relpath(photographs / "images", tmp_path),
                           "--output=labels.csv", cwd=tmp_path)
    assert predicted.returncode == 0, predicted.stderr
    header, *lines = (tmp_path / "labels.csv").read_text().splitlines()
    # As somebody corrects it, whatever was predicted.
    lines = [",".join([(cells := line.split(","))[0], LABELS[i % 2], *cells[2:]]) for i, line in enumerate(lines)]
    (tmp_path / "labels.csv").write_text("\n".join([header, *lines]) + "\n")
    source = loaded(tmp_path / "labels.csv", validation_split=0.25)
    assert sorted(pair for pairs in shown(source).values() for pair in pairs) == [(i, LABELS[i % 2]) for i in range(24)]
    lines[1] = lines[1].replace("png", "jpg")
    (tmp_path / "labels.csv").write_text("\n".join([header, *lines]) + "\n")
    run = mirrorline("train", "--dataset=table:labels.csv", "--validation_split=0.25", "--workdir=second", *options,
                     cwd=tmp_path)
    assert run.returncode == 2 and "labels.csv, line 3: cannot read" in run.stderr and "Traceback" not in run.stderr
