"""Paths of users: the home directory, addresses, and invalid names."""
import os
import pathlib
import re

import pytest
from absl import flags as absl_flags
from matplotlib.figure import Figure
from PIL import Image

import flags
from flags.definitions import is_option
from launch import __main__ as command_line
from launch.commands import benchmark, evaluate, export, find, inspect, predict, sweep, tensorboard, train, verify
from pipeline.config import DataConfig, ExperimentConfig
from pipeline.errors import UsageError
from pipeline.evaluation.prediction import find_files
from pipeline.extension import absolute
from pipeline.paths import check_drawing, check_file, check_folder, local_path
from pipeline.run_directory import RunDirectory, check_outside_data, default_path, free_path, stored_config
from tests.commands import answers, environment, start

COMMANDS = {command.__name__.split(".")[-1]: command for command in (
    train, evaluate, predict, export, tensorboard, sweep, verify, benchmark, inspect, find)}
# Every flag that takes a path, by command; --dataset takes one after `folder:` and `table:`.
PATHS = {
    "train": ["dataset", "data_dir", "cache_dir", "image_root", "initialize_from", "workdir"],
    "evaluate": ["checkpoint", "compare"],
    "predict": ["checkpoint", "output", "figure", "explain_dir"], "export": ["checkpoint", "output"],
    "tensorboard": ["logdir", "workdir"], "sweep": ["output"], "verify": ["output"],
    "benchmark": ["output", "compare"], "inspect": ["plot"], "find": ["plot"]}
CASES = [(command, flag) for command, names in PATHS.items() for flag in names]


def defined(module):
    """Returns the flags of a command."""
    values = absl_flags.FlagValues()
    flags.define_options(values, module.GROUPS, getattr(module, "ONLY", ()), getattr(module, "WITHOUT", ()))
    module.define(values)
    return values


def value(command, flag, text):
    """Returns the parsed value of a flag."""
    values = defined(COMMANDS[command])
    flags.parse([f"--{flag}={'folder:' if flag == 'dataset' else ''}{text}"], values, command)
    if is_option(values, flag):
        return flags.config_from_flags(values).flat()[flag].removeprefix("folder:")
    found = values[flag].value
    return found[0] if isinstance(found, list) else found


@pytest.fixture
def home(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    return str(tmp_path / "home")


@pytest.mark.parametrize("command, flag", CASES)
def test_every_path_flag(home, command, flag):
    assert value(command, flag, "~/runs/x") == f"{home}/runs/x" and value(command, flag, "~") == home
    assert value(command, flag, "./~x/$HOME [a]/") == "./~x/$HOME [a]"
    for text, found in (("gs://bucket/x", "mount it"), ("s3://bucket", "mount it"), ("hdfs://x/y", "mount it"),
                        ("file:///data/x", "give /data/x"), ("", "is empty"),
                        ("~nobody_here/x", "give ./~nobody_here/x")):
        with pytest.raises(UsageError, match=found) as raised:
            value(command, flag, text)
        assert f"--{flag}" in str(raised.value) and "\n" not in str(raised.value)


def test_no_path_flag_is_left_out():
    """Flags that take a path are found by one of these words in their help."""
    for name, module in COMMANDS.items():
        values = defined(module)
        known = {*PATHS[name], *PATHS["train"], "report", "extension", "resize"}  # The last three take no path.
        asks = {flag for flag in values if isinstance(values[flag].default, str | None)
                    and not isinstance(values[flag].parser, absl_flags.EnumParser)
                    and re.search(r"\b(folder|file|directory|path)s?\b", values[flag].help)}
        assert asks <= known, name


def test_paths_from_python(home, tmp_path):
    config = ExperimentConfig.from_flat({"workdir": pathlib.Path("~/x"), "dataset": "folder:~/cats/"})
    assert config.runtime.workdir == f"{home}/x" and config.data.dataset == f"folder:{home}/cats"
    assert config.replace(data_dir="~/d").data.data_dir == f"{home}/d" == DataConfig(data_dir="~/d").data_dir
    pathlib.Path(home).mkdir()
    (pathlib.Path(home) / "own.py").write_text("")
    assert absolute(("~/own.py",)) == (f"{home}/own.py",)
    assert find_files(["~/own.py"])[0] == find_files(["~"])[0] == [f"{home}/own.py"]
    with pytest.raises(UsageError, match=rf"--workdir={home}/none holds no run"):
        stored_config("~/none")
    with pytest.raises(UsageError, match="UTF-8"):
        local_path("a\udcff", "--workdir")


def obstacles(folder):
    """Makes obstacles; returns {path: words of the message}."""
    (folder / "file").write_text("mine")
    (folder / "loop").symlink_to("loop")
    (folder / "dangling").symlink_to("nothing")
    return {f"{folder}/file/x": "", f"{folder}/loop": "symbolic links", f"{folder}/loop/x": "symbolic links",
            f"{folder}/{'n' * 300}": "name too long", f"{folder}/{'n' * 300}/x": "name too long",
            "/proc/mirrorline": "", f"{folder}/{'p/' * 3000}x": "name too long"}


def test_obstacles_are_reported_in_one_line_and_nothing_is_left(tmp_path):
    found = obstacles(tmp_path)
    before = sorted(tmp_path.rglob("*"))
    folders = {**found, f"{tmp_path}/file": "it is a file", f"{tmp_path}/dangling": "a broken link"}
    files = {**found, str(tmp_path): "it is a folder"}
    del files[f"{tmp_path}/loop"]  # A file takes its place.
    for check, paths in ((check_folder, folders), (check_file, files)):
        for path, words in paths.items():
            with pytest.raises(UsageError, match=words or None) as raised:
                check("--output", path)
            assert "--output=" in str(raised.value) and "\n" not in str(raised.value)
    for path, words in folders.items():
        with pytest.raises(UsageError, match=words if "long" in words else None):
            directory = RunDirectory(path)
            directory.check(ExperimentConfig())
            directory.claim()
    assert sorted(tmp_path.rglob("*")) == before
    check_folder("--output", str(tmp_path / "a" / "b"))
    check_file("--output", str(tmp_path / "a.json"))
    check_file("--output", os.devnull)
    assert sorted(tmp_path.rglob("*")) == before


def test_no_run_inside_its_data_set(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for folder in ("split/train/cat", "split/test/cat", "classes/cat", "split/elsewhere", "outside"):
        os.makedirs(folder)
    os.symlink("split", "link")
    refused = {"split": ("split/train/run", "split/train/cat/run", "link/test/run", "split/val/run",
                         "split/elsewhere/../train/run"),
               "classes": ("classes/run", "classes/runs/x", "classes/cat/run")}
    held = {"split": ("split/elsewhere/run", "split-2", "outside/run", "split/train/.runs/x"),
            "classes": ("outside", "classes/.runs/x"), "nothing": ("nothing/x",)}
    for data, paths in refused.items():
        for path in paths:
            with pytest.raises(UsageError, match=f"--workdir={path} is inside the data set.*={tmp_path}/runs/"):
                RunDirectory(path).check(ExperimentConfig.from_flat({"dataset": f"folder:{data}"}))
    for data, paths in held.items():
        for path in paths:
            RunDirectory(path).check(ExperimentConfig.from_flat({"dataset": f"folder:{data}"}))
    with pytest.raises(UsageError, match="--output=classes/x is inside"):
        check_outside_data("--output", "classes/x", "folder:classes")


def test_no_image_of_the_user_is_replaced(tmp_path):
    photo, folder, drawn = tmp_path / "photo.png", tmp_path / "images", tmp_path / "drawn.png"
    Image.new("RGB", (4, 4)).save(photo)
    Figure().savefig(drawn)
    folder.mkdir()
    photo.rename(folder / "photo.png")
    photo = folder / "photo.png"
    before = photo.read_bytes()
    for code, _, errors in answers([["inspect", "--model=mlp", f"--plot={photo}"],
                                  ["predict", f"--figure={photo}", str(folder)],
                                  ["predict", "--format=csv", f"--output={photo}", str(folder)],
                                  ["predict", "--explain", f"--explain_dir={folder}", str(folder)]], tmp_path):
        assert (code, errors.count("\n")) == (2, 1) and str(folder) in errors, errors
    assert photo.read_bytes() == before and os.listdir(folder) == ["photo.png"]
    check_drawing("--plot", str(drawn))
    check_drawing("--plot", str(tmp_path / "new.png"))


@pytest.mark.parametrize("order", [["verify", "--output=run/config.json"],
                                   ["predict", "--output=run/result.json", "--format=json", "x.png"]])
def test_no_record_of_a_run_is_replaced(order, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    os.mkdir("run")
    for name in ("config.json", "metrics.jsonl", "result.json"):
        (tmp_path / "run" / name).write_text("{}")
    assert command_line.main(order) == 2
    printed = capsys.readouterr().err
    assert printed.count("\n") == 1 and "would replace the record of a run" in printed
    assert {path.read_text() for path in (tmp_path / "run").iterdir()} == {"{}"}


def test_default_names_of_runs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "runs").mkdir()
    for folder in ("n" * 255, "é" * 127, "cats [v2]"):
        path = default_path(ExperimentConfig.from_flat({"dataset": f"folder:{folder}", "model": "mlp"}))
        os.mkdir(path)
    assert path == "runs/cats [v2]-mlp"
    assert free_path(".") == f"{tmp_path}-2" and free_path("runs") == "runs-2"


def test_addresses_are_refused_before_anything_is_written(tmp_path):
    orders = [("train", "--workdir=gs://bucket/run"), ("train", "--flagfile=s3://b/my.flags"),
              ("train", f"--workdir={'n' * 300}"), ("predict", "--workdir=x", "s3://bucket/a.png"),
              ("train", "--workdir=file:///x"), ("train", "--extension=gs://b/own.py")]
    for order, (code, _, errors) in zip(orders, answers(orders, tmp_path), strict=True):
        assert code == 2 and errors.count("\n") == 1, (order, errors)
    assert not list(tmp_path.iterdir())


@pytest.mark.acceptance  # test_every_path_flag resolves it.
def test_run_in_the_home_directory(tmp_path):
    home = {**environment(), "HOME": str(tmp_path / "home")}
    process = start("train", "--model=mlp", "--steps=1", "--subset=1", "--workdir=~/runs/x", "--quiet", cwd=tmp_path,
                    more=home)
    assert process.communicate()[1] == "" and process.returncode == 0
    assert (tmp_path / "home" / "runs" / "x" / "result.json").exists() and not (tmp_path / "~").exists()
