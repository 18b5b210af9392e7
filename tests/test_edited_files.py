"""Edited, torn and replaced files: a byte order mark is ignored, everything else is reported with its place."""
import dataclasses
import json

import pytest

from pipeline.benchmark import comparison
from pipeline.callbacks import Restored
from pipeline.config import ExperimentConfig
from pipeline.errors import UsageError
from pipeline.evaluation.history import learning_curves
from pipeline.extension import absolute
from pipeline.files import read_json
from pipeline.monitoring.goodput import lost_tail, summarize
from pipeline.monitoring.launches import Launches, latest_saved
from pipeline.monitoring.metrics_log import JsonLines, read_backwards, read_records
from pipeline.monitoring.progress import NullProgress
from pipeline.options import Interval
from pipeline.run_directory import RunDirectory, stored_config
from pipeline.stored_checkpoint import digest, find_problem
from pipeline.sweep.records import SweepDirectory, Trial, best
from pipeline.sweep.tables import epochs_text, print_final
from pipeline.training.cadence import Plan
from tests.commands import mirrorline

DATA = {"name": "digits", "fingerprint": "f", "class_names": ["0", "1"], "image_shape": [8, 8, 1], "num_train": 9,
        "num_validation": 0, "num_test": 3}
RUN = {"config": {"dataset": "digits", "model": "mlp", "precision": "float32", "batch_size": 4, "epochs": None,
                  "freeze": ["a"]}, "data": DATA}
SETTINGS = {"space": {}, "search": "grid", "prune": "none", "flags": ExperimentConfig().flat(), "metric": "accuracy"}
BENCHMARK = {"schema": 1, "cells": []}
# Readers of whole JSON files: (name of the file, what it holds, function of its path, of its folder).
READERS = {
    "config.json": ("config.json", RUN, lambda path, folder: stored_config(folder)),
    "config.json of a new run": ("config.json", RUN, lambda path, folder: RunDirectory(folder).config),
    "result.json": ("result.json", {"status": "finished", "step": 3}, lambda path, folder: RunDirectory(folder).result),
    "sweep.json": ("sweep.json", {"settings": SETTINGS, "trials": []}, lambda path, folder: SweepDirectory(
        folder, SETTINGS)),
    "benchmark.json": ("benchmark.json", BENCHMARK, lambda path, folder: comparison.read(path)),
}


def comma(text):
    return text[:-2] + ",\n}\n"


DAMAGES = {
    "a comma too many": (lambda text: comma(text).encode(), "line"),
    "cut short": (lambda text: text[:len(text) // 2].encode(), "column"),
    "empty": (lambda text: b"", "line 1, column 1"),
    "a list": (lambda text: b"[]\n", ""),
    "a number": (lambda text: b"3\n", ""),
    "another object": (lambda text: b"{}\n", ""),
    "UTF-16": (lambda text: text.encode("utf-16"), "UTF-16"),
    "Latin-1": (lambda text: text.replace("\n", "\n\xe9", 1).encode("latin-1"), "line 2 is not text in UTF-8"),
    "zeros": (lambda text: b"\0" * 100, "line 1 is not text"),
    "nested": (lambda text: b"[" * 100_000, "nested"),
    "a folder": (None, "is a directory"),
}


def written(folder, name, data):
    path = folder / name
    path.mkdir() if data is None else path.write_bytes(data)
    return str(path)


@pytest.mark.parametrize("reader", READERS)
@pytest.mark.parametrize("damage", DAMAGES)
def test_unreadable_json_is_reported_with_its_place(tmp_path, reader, damage):
    name, value, read = READERS[reader]
    change, where = DAMAGES[damage]
    path = written(tmp_path, name, change and change(json.dumps(value, indent=2) + "\n"))
    with pytest.raises(UsageError) as raised:
        read(path, str(tmp_path))
    assert name in str(raised.value) and where in str(raised.value) and "\n" not in str(raised.value)


@pytest.mark.parametrize("reader", READERS)
def test_byte_order_mark_and_line_ends_are_ignored(tmp_path, reader):
    name, value, read = READERS[reader]
    text = json.dumps(value, indent=2).replace("\n", "\r\n")
    read(written(tmp_path, name, text.encode("utf-8-sig")), str(tmp_path))


@pytest.mark.parametrize("name, value", [("batch_size", "64"), ("batch_size", 1.5), ("nesterov", 1), ("model", 3),
                                         ("freeze", "a"), ("epochs", True)])
def test_option_of_another_type_in_config_json(tmp_path, name, value):
    (tmp_path / "config.json").write_text(json.dumps({**RUN, "config": {name: value}}))
    with pytest.raises(UsageError, match=rf"config\.json cannot be read: {name} is "):
        stored_config(str(tmp_path))


NORMALIZED = {**RUN, "config": {**RUN["config"], "normalize": "per_channel"},
              "normalization": {"mean": [0.5], "deviation": [0.2]}}
WHOLE = {**NORMALIZED, "extensions": [{"name": "a.py", "kind": "file", "files": {"a.py": "0" * 64}}],
         "plan": {"total_steps": 3}, "num_replicas": 1, "device": {"kind": "CPU", "threads": 2, "cores": 2},
         "versions": {"keras": "3"}, "frozen": None}
ODD = (None, "x", -1, 1.5, True, [], {}, ["x"], [None], 10**30)


def places(value, before=()):
    """Returns the places of all values in JSON, each a tuple of keys and numbers."""
    entries = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [place for key, inner in entries for place in ((*before, key), *places(inner, (*before, key)))]


def altered(value, place, *new):
    """Returns a copy of a JSON value with another one at a place, or without what is there."""
    changed = json.loads(json.dumps(value))
    inside = changed
    for key in place[:-1]:
        inside = inside[key]
    if new:
        inside[place[-1]] = new[0]
    else:
        del inside[place[-1]]
    return changed


def test_whatever_stands_in_config_json_it_is_read_or_named(tmp_path):
    path = written(tmp_path, "config.json", b"{}")
    for place in places(WHOLE):
        for new in [(), *((odd,) for odd in ODD)]:
            changed = altered(WHOLE, place, *new)
            with open(path, "w", encoding="utf-8") as file:
                json.dump(changed, file)
            try:
                directory, stored = stored_config(str(tmp_path))
                directory.check(ExperimentConfig.from_flat({**stored["config"], "allow": list(stored["config"])}),
                                lambda stored: "f")
            except UsageError as error:
                assert "\n" not in str(error)
                continue
            assert len(stored["data"]["image_shape"]) == 3 and all(map(len, stored["data"]["class_names"]))


@pytest.mark.parametrize("place, new, words", [
    (("config",), ({},), "it has no 'config.dataset'"), (("config", "precision"), (), "it has no 'config.precision'"),
    (("config", "batch_size"), (None,), "batch_size is null"), (("config", "freeze"), (None,), "freeze is null"),
    (("config", "freeze"), ([{}],), "freeze holds {}"), (("data", "class_names"), (), "it has no 'data.class_names'"),
    (("data", "class_names"), (["a", 3],), "data.class_names is no list of names"),
    (("data", "image_shape"), ([8, 8],), r"data.image_shape is \[8, 8\]"), (("data", "num_train"), ("x",), "num_train"),
    (("data", "fingerprint"), (None,), "data.fingerprint is null"), (("extensions",), (3,), "extensions is 3"),
    (("normalization",), (None,), "it has no 'normalization'"),
    (("normalization", "mean"), ([1, 2],), "a number a channel"),
    (("device", "threads"), ("two",), 'device.threads is "two"'),
    (("config", "batch_size"), (-1,), "config.json has an invalid value: --batch_size must be >= 1"),
])
def test_what_is_wrong_in_config_json_is_named(tmp_path, place, new, words):
    written(tmp_path, "config.json", json.dumps(altered(WHOLE, place, *new)).encode())
    with pytest.raises(UsageError, match=words) as raised:
        stored_config(str(tmp_path))
    assert "config.json" in str(raised.value)


def test_unreadable_manifest_makes_a_damaged_checkpoint(tmp_path):
    manifest = {"step": 0, "variables": {}, "files": {}}
    text = json.dumps({**manifest, "sha256": digest(manifest)})
    for number, (data, problem) in enumerate([(text.encode("utf-8-sig"), None), (text[:-1].encode(), "damaged"),
                                              (b"3", "damaged"), (None, "damaged")]):
        written(tmp_path, f"ckpt-{number}.manifest.json", data)
        found = find_problem(str(tmp_path / f"ckpt-{number}"))
        assert (found is None) if problem is None else problem in found


LINES = [{"event": "saved", "step": step} for step in (1, 2, 3)]


def lines(records, end="\n"):
    return "".join(json.dumps(record) + end for record in records).encode()


@pytest.mark.parametrize("data", [b"\xef\xbb\xbf" + lines(LINES), lines(LINES, "\r\n"), lines(LINES) + b"\n",
                                  lines(LINES) + b'{"torn', b"\xef\xbb\xbf" + lines(LINES) + b"\0\0\0"])
def test_lines_are_read_with_any_ends(tmp_path, data):
    path = written(tmp_path, "launches.jsonl", data)
    assert list(read_records(path)) == LINES and list(read_backwards(path)) == LINES[::-1]
    assert latest_saved(path) == 3
    JsonLines(path).close()
    assert list(read_records(path)) == LINES


# Records of each kind, with all that is read of them.
RECORDS = {
    "metrics.jsonl": [{"kind": "train", "step": 1, "wall_time": 2.0, "loss": 0.5, "accuracy": 0.25},
                      {"kind": "evaluation", "step": 1, "split": "test", "loss": None, "accuracy": 0.5},
                      {"kind": "train", "step": 2, "wall_time": 3.0, "loss": None, "examples_per_second": 9.5}],
    "launches.jsonl": [{"event": "start", "step": 0, "wall_time": 1.0, "allowed": [["seed", 1, 2]], "age": 0.5},
                       {"event": "spent", "step": 1, "wall_time": 2.0, "seconds": {"steps": 1.0, "newer": 2}},
                       {"event": "lost", "step": 0, "wall_time": 2.0, "to_step": 1, "seconds": 0.5},
                       {"event": "saved", "step": 1, "wall_time": 2.5}],
}


def read_all(folder):
    """Reads the records of a run in every way in which a training does."""
    launches_path, metrics_path = str(folder / "launches.jsonl"), str(folder / "metrics.jsonl")
    launches = Launches(launches_path)
    for read in (lambda: launches.allowed(0), launches.latest_saved, launches.close, lambda: summarize(launches_path),
                 lambda: lost_tail(launches_path, metrics_path)):
        read()
    every = Interval(1, "epochs")
    progress = NullProgress(Plan(9, 3, 3, 0, every, every))
    progress.on_rollback(Restored(2, tuple(r for r in read_records(metrics_path) if r["kind"] == "evaluation")))
    list(learning_curves(read_records(metrics_path)))
    JsonLines(metrics_path).close()


def test_a_record_without_what_is_read_of_it_is_named_with_its_line(tmp_path):
    for name, records in RECORDS.items():
        for place in places(records):
            if len(place) == 1:
                continue
            for new in [(), *((odd,) for odd in ODD)]:
                for other, whole in RECORDS.items():
                    written(tmp_path, other, lines(altered(whole, place, *new) if other == name else whole))
                try:
                    read_all(tmp_path)
                except UsageError as error:
                    assert f"{name} cannot be read: line {place[0] + 1}: " in str(error)


@pytest.mark.parametrize("name, at, old, new, words", [
    ("metrics.jsonl", 1, b'"accuracy"', b'"exactness"', "line 2: it has no 'accuracy'"),
    ("metrics.jsonl", 0, b'"kind"', b'"sort"', "line 1: it has no 'kind'"),
    ("launches.jsonl", 1, b'"step": 1', b'"step": "one"', 'line 2: step is "one"'),
    ("launches.jsonl", 1, b'"steps": 1.0', b'"steps": null', "line 2: seconds is"),
    ("launches.jsonl", 0, b'"event"', b'"happened"', "line 1: it has no 'event'"),
])
def test_what_a_record_lacks_is_named(tmp_path, name, at, old, new, words):
    whole = [lines([record]) for record in RECORDS[name]]
    written(tmp_path, name, b"".join(line.replace(old, new) if i == at else line for i, line in enumerate(whole)))
    with pytest.raises(UsageError, match=f"{name} cannot be read: {words}"):
        list(read_records(str(tmp_path / name)))


def test_whatever_stands_in_sweep_json_it_is_read_or_named(tmp_path):
    seen = [{"step": 3, "epoch": 1.0, "accuracy": 0.5, "loss": None}]
    trials = [Trial(1, {"l2": 0.1}, "finished", seen, 9, 1.0, 2.5, None, {}),
              Trial(2, {"l2": 0.2}, "failed", message="it diverged")]
    settings = {**SETTINGS, "space": {"l2": "0..1"}}
    whole = json.loads(json.dumps({"settings": settings, "trials": [dataclasses.asdict(trial) for trial in trials]}))
    refused = 0
    for place in places(whole):
        for new in [(), *((odd,) for odd in ODD)]:
            if place[:2] == ("settings", "flags"):
                continue
            (tmp_path / "sweep.json").write_text(json.dumps(altered(whole, place, *new)))
            try:
                directory = SweepDirectory(str(tmp_path), settings)
            except UsageError as error:
                assert "\n" not in str(error)
                refused += 1
                continue
            for metric in ("accuracy", "loss"):
                first = best(directory.trials, metric)
            print_final(directory.trials, "accuracy")
            directory.write_leaderboard()
            assert first is None or epochs_text(first)
    assert refused > 100


def test_whatever_stands_in_benchmark_json_it_is_compared_or_named(tmp_path):
    cell = {"model": "mlp", "image_size": "8x8x1", "precision": "float32", "workers": 1, "replicas": 1, "batch_size": 8,
            "xla": "off", "status": "ok", "examples_per_second": 9.0, "repeats": [9.0, 9.5, 8.5, 9.0, 9.0],
            "fitted_batch_size": 8, "error": None}
    whole, refused = {"schema": 1, "machine": {"cores": 2}, "versions": {}, "flags": {}, "cells": [cell]}, 0
    for place in places(whole):
        for new in [(), *((odd,) for odd in ODD)]:
            path = written(tmp_path, "benchmark.json", json.dumps(altered(whole, place, *new)).encode())
            try:
                report = comparison.read(path)
            except UsageError as error:
                assert "\n" not in str(error)
                refused += 1
                continue
            for old, now in ((report, whole), (whole, report)):
                comparison.print_table(comparison.compare(old, now, 0.1)[0])
    assert refused > 30


@pytest.mark.parametrize("name, value", [("step", "x"), ("step", None), ("status", 3)])
def test_a_result_with_other_types_is_named(tmp_path, name, value):
    written(tmp_path, "result.json", json.dumps({"status": "finished", "step": 3, name: value}).encode())
    with pytest.raises(UsageError, match=rf"result\.json cannot be read: {name} is"):
        _ = RunDirectory(str(tmp_path)).result


@pytest.mark.parametrize("name, folder", [
    ("metrics.jsonl", True), ("launches.jsonl", True), ("config.json.tmp", True), ("result.json.tmp", True),
    ("checkpoints", False), ("tensorboard", False), ("checkpoints/checkpoint", True), ("checkpoints/best", False)])
def test_a_folder_in_the_place_of_a_file_and_a_file_in_that_of_a_folder_are_named(tmp_path, name, folder):
    written(tmp_path, "config.json", json.dumps(RUN).encode())
    (tmp_path / name).parent.mkdir(exist_ok=True)
    (tmp_path / name).mkdir() if folder else (tmp_path / name).write_text("")
    with pytest.raises(UsageError, match=f"{name} is no {'file' if folder else 'folder'}, .*move it away"):
        RunDirectory(str(tmp_path)).check(ExperimentConfig())


@pytest.mark.parametrize("line, where", [(b'{"event": }', "line 2: column 11"), (b"[]", "line 2"), (b"\xff", "line 2"),
                                         (b'{"event": "saved",}', "line 2")])
def test_unreadable_line_is_reported_and_hides_no_later_one(tmp_path, line, where):
    path = written(tmp_path, "launches.jsonl", lines(LINES[:1]) + line + b"\n" + lines(LINES[1:]))
    with pytest.raises(UsageError, match=rf"launches\.jsonl cannot be read: {where}"):
        latest_saved(path)


def test_extension_with_a_byte_order_mark(tmp_path):
    assert absolute((written(tmp_path, "own.py", "\ufeffVALUE = 'é'\n".encode()),))


def test_command_reports_it_in_one_line(tmp_path):
    (tmp_path / "config.json").write_text('{\n  "config": {},\n}\n')
    for command in ("evaluate", "train"):
        done = mirrorline(command, f"--workdir={tmp_path}", cwd=tmp_path)
        assert done.returncode == 2 and done.stderr.count("\n") == 1, done.stderr
        assert f"{tmp_path}/config.json cannot be read: line 3, column 1" in done.stderr
    assert read_json(str(tmp_path / "none.json")) is None
