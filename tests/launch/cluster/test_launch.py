"""The arguments of mirrorline launch; mistakes change nothing."""
import dataclasses
import os
import subprocess
import sys

import pytest

from launch import __main__ as command_line
from launch.cluster.local_workers import share
from launch.commands import launch as command
from pipeline import config
from pipeline.errors import UsageError
from tests.commands import REPOSITORY, environment


@pytest.mark.parametrize("arguments, words", [
    ([], "what to launch comes after --"),
    (["--"], "what to launch comes after --"),
    (["--workers=2", "--", "evaluate"], "'evaluate' cannot be launched"),
    (["--workers=2", "train", "--model=mlp"], "--model=mlp is for train, whose command follows after --, as in: "
     "mirrorline launch --workers=2 -- train --model=mlp\n"),
    (["--model=mlp", "--workers", "2"], "as in: mirrorline launch --workers 2 -- train --model=mlp\n"),
    (["train", "--batch-size", "8", "--quiet", "--noshuffle_it", "--workers=2", "--max_restarts=1"],
     "as in: mirrorline launch --workers=2 --max_restarts=1 -- train --batch-size 8 --quiet --noshuffle_it\n"),
    (["--workers=2", "--steps=5", "--", "train", "--workdir=my run"],
     "as in: mirrorline launch --workers=2 -- train --steps=5 '--workdir=my run'\n"),
    (["--wokers=2", "--", "train"], "unknown flag '--wokers': did you mean --workers?"),
    (["--", "train", "--modle=mlp"], "did you mean --model?"),
    (["--", "train", "mlp"], "unexpected argument 'mlp'"),
    (["--workers=0", "--", "train"], "--workers=0: give a number from 1 to 64"),
    (["--workers=65", "--", "train"], "--workers=65: give"),
    (["--workers=1..", "--", "train"], "--workers=1..: give"),
    (["--workers=3..2", "--", "train"], "such as 2..3"),
    (["--workers=3", "--", "train", "--batch_size=64"], "--batch_size=64 must divide by the workers; what works: 1, 2"),
    (["--max_restarts=-1", "--", "train"], "--max_restarts"),
    (["--grace_seconds=-1", "--", "train"], "--grace_seconds"),
    (["--", "train", "--workdir=full"], "holds files that are not of a run"),
])
def test_mistake_is_reported_in_one_line_and_changes_nothing(arguments, words, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "letter.txt").write_text("dear")
    assert command_line.main(["launch", *arguments]) == 2
    out, errors = capsys.readouterr()
    assert words in errors and errors.count("\n") == 1 and out == ""
    assert sorted(str(p.relative_to(tmp_path)) for p in tmp_path.rglob("*")) == ["full", "full/letter.txt"]


@pytest.mark.parametrize("arguments, of", [
    (["--workers=2", "--", "train", "--help"], "train"), (["--", "train", "--steps=5", "--helpfull"], "train"),
    (["--workers=2", "--help"], "launch"), (["--help", "--", "train"], "launch"),
    (["-h", "--", "train", "--help"], "launch"),
])
def test_help_belongs_to_its_command(arguments, of, capsys):
    assert command_line.main(["launch", *arguments]) == 0
    out = capsys.readouterr().out
    assert out.startswith(f"Usage: mirrorline {of} ") and ("--learning_rate" in out) == (of == "train")


def test_launched_command_gets_its_flags_and_workdir(tmp_path, monkeypatch, capsys):
    called = {}
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(command, "supervise", lambda *arguments: called.update(arguments=arguments) or 75)
    train = ["train", "--model=mlp", "--batch_size=12", "--workers_are_no_flag_of_train"]
    assert command_line.main(["launch", "--", *train]) == 2
    assert command_line.main(["launch", "--workers=1..5", "--max_restarts=7", "--grace_seconds=2", "--",
                              *train[:-1]]) == 75
    worker, workdir, sizes, limits, _, gpus = called["arguments"]
    folder = os.path.join("runs", "digits-mlp")
    assert worker == [sys.executable, "-m", "launch", *train[:-1], f"--workdir={folder}"] and workdir == folder
    assert sizes == [1, 2, 3, 4] and gpus == () and dataclasses.astuple(limits)[:2] == (7, 2.0)
    assert "launch  not with 5 workers: --batch_size=12 must divide" in capsys.readouterr().out


def settings(**values):
    return config.ExperimentConfig.from_flat({"batch_size": 24, **values})


@pytest.mark.parametrize("least, most, values, gpus, sizes", [
    (1, 8, {}, 0, [1, 2, 3, 4, 6, 8]),
    (2, 2, {"replicas": 2}, 0, [2]),
    (1, 8, {"replicas": 2, "accumulate_steps": 3}, 0, [1, 2, 4]),
    (1, 8, {}, 4, [1, 2, 3, 4]),  # Each has a GPU of its own; three of four are used by three workers.
])
def test_usable_numbers_of_workers_divide_the_batch(least, most, values, gpus, sizes):
    usable, left_out = command.usable_sizes(least, most, settings(**values), gpus)
    assert usable == sizes and sorted(usable + left_out) == list(range(least, most + 1))


def test_no_usable_number_of_workers():
    with pytest.raises(UsageError, match=r"--workers=5: --batch_size=24 .*; what works: 1, 2, 3, 4, 6, 8, 12, 24$"):
        command.usable_sizes(5, 5, settings(), 0)
    with pytest.raises(UsageError, match="on 1 GPU; what works: 1$"):
        command.usable_sizes(2, 2, settings(), 1)
    with pytest.raises(UsageError, match="CUDA_VISIBLE_DEVICES"):
        command.usable_sizes(2, 2, settings(devices=("0", "1")), 2)


def test_gpus_are_divided_among_workers(monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "4, GPU-8f,6")
    assert command.visible_gpus(3) == ("4", "GPU-8f", "6") and command.visible_gpus(0) == ()
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES")
    assert command.visible_gpus(3) == ("0", "1", "2")
    assert [share(("0", "1", "2", "3", "4"), rank, 2) for rank in range(2)] == [("0", "1"), ("2", "3")]


def test_launch_imports_nothing_heavy():
    script = ("import sys, pkgutil, importlib, launch.commands.launch, launch.cluster\n"
              "for module in pkgutil.iter_modules(launch.cluster.__path__, 'launch.cluster.'):\n"
              "    importlib.import_module(module.name)\n"
              "from launch.__main__ import main\n"
              "assert main(['launch', '--workers=7', '--', 'train']) == 2\n"
              "print(sorted({'tensorflow', 'keras', 'numpy', 'rich', 'matplotlib'} & set(sys.modules)))")
    done = subprocess.run([sys.executable, "-c", script], cwd=REPOSITORY, env=environment(), capture_output=True,
                          text=True, timeout=600)
    assert done.stdout == "[]\n", done.stderr
