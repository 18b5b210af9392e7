"""Edited, torn and replaced files: a byte order mark is ignored, everything else is reported with its place."""
import json

import pytest
from absl import flags as absl_flags

import flags
from pipeline.benchmark import comparison
from pipeline.config import ExperimentConfig
from pipeline.errors import UsageError
from pipeline.extension import absolute
from pipeline.files import read_json
from pipeline.monitoring.launches import newest_saved
from pipeline.monitoring.metrics_log import JsonLines, read_backwards, read_records
from pipeline.run_directory import RunDirectory, stored_config
from pipeline.stored_checkpoint import digest, find_problem
from pipeline.sweep.records import SweepDirectory
from tests.commands import mirrorline

RUN = {"config": {"model": "mlp", "epochs": None, "freeze": ["a"]}, "data": {"fingerprint": "f"}}
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


def test_unreadable_manifest_makes_a_damaged_checkpoint(tmp_path):
    manifest = {"step": 1, "variables": {}, "files": {}}
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
    assert newest_saved(path) == 3
    JsonLines(path).close()
    assert list(read_records(path)) == LINES


@pytest.mark.parametrize("line, where", [(b'{"event": }', "line 2: column 11"), (b"[]", "line 2"), (b"\xff", "line 2"),
                                         (b'{"event": "saved",}', "line 2")])
def test_unreadable_line_is_reported_and_hides_no_later_one(tmp_path, line, where):
    path = written(tmp_path, "launches.jsonl", lines(LINES[:1]) + line + b"\n" + lines(LINES[1:]))
    with pytest.raises(UsageError, match=rf"launches\.jsonl cannot be read: {where}"):
        newest_saved(path)


def parsed(*arguments):
    values = absl_flags.FlagValues()
    flags.define_options(values, only=("workdir", "steps", "model", "freeze"))
    flags.parse(list(arguments), values, "train")
    return flags.given_options(values)


@pytest.mark.parametrize("data", [
    b"\xef\xbb\xbf--steps=3\n--model=mlp", b"--steps=3\r\n\r\n# text\r\n--model=mlp\r\n",
    b"  --steps=3 \n// x\n--model='mlp'", b'--steps="3"\n--model="mlp"\n'])
def test_flag_files_of_editors(tmp_path, data):
    assert parsed(f"--flagfile={written(tmp_path, 'a b.flags', data)}") == {"steps": 3, "model": "mlp"}


def test_flag_files_contain_paths_lists_and_flag_files(tmp_path):
    inner = written(tmp_path, "inner.flags", b"--workdir=runs/#1 [a] $HOME 'b'\n--freeze=\"a,b\",'c'\n")
    outer = written(tmp_path, "outer.flags", f"--flagfile={inner}\n--steps=2\n".encode())
    assert parsed("--steps=1", f"--flagfile={outer}") == {
        "workdir": "runs/#1 [a] $HOME 'b'", "freeze": ["a,b", "'c'"], "steps": 2}


@pytest.mark.parametrize("data, where", [(None, "is a directory"), ("--steps=3".encode("utf-16"), "UTF-16"),
                                         (b"--steps=3\n--model=\xff", "line 2"), (b"\x7fELF\0", "line 1"),
                                         (b"--flagfile=own.flags", "includes itself")])
def test_unreadable_flag_files(tmp_path, monkeypatch, data, where):
    monkeypatch.chdir(tmp_path)
    written(tmp_path, "own.flags", data)
    with pytest.raises(UsageError, match=where):
        parsed("--flagfile=own.flags")
    with pytest.raises(UsageError, match="no such file"):
        parsed("--flagfile=none.flags")


def test_extension_with_a_byte_order_mark(tmp_path):
    assert absolute((written(tmp_path, "own.py", "\ufeffVALUE = 'é'\n".encode()),))


def test_command_reports_it_in_one_line(tmp_path):
    (tmp_path / "config.json").write_text('{\n  "config": {},\n}\n')
    for command in ("evaluate", "train"):
        done = mirrorline(command, f"--workdir={tmp_path}", cwd=tmp_path)
        assert done.returncode == 2 and done.stderr.count("\n") == 1, done.stderr
        assert f"{tmp_path}/config.json cannot be read: line 3, column 1" in done.stderr
    assert read_json(str(tmp_path / "none.json")) is None
