"""Folders that are gone, and users without a home or a name: every command says so in a line, or works."""
import json
import os
import pwd
import time

import pytest

from launch import __main__ as command_line
from launch.commands import tensorboard
from pipeline.data.array_cache import cached, default_cache_dir
from pipeline.data.sources.tfds_prepare import default_data_dir
from pipeline.errors import UsageError
from pipeline.verification import installation
from tests.commands import metrics, start


@pytest.mark.parametrize("command", command_line.COMMANDS)
def test_a_working_directory_that_is_gone(command, tmp_path, monkeypatch, capsys):
    (tmp_path / "gone").mkdir()
    monkeypatch.chdir(tmp_path / "gone")
    (tmp_path / "gone").rmdir()
    # For launch the one that it launches speaks for both.
    assert command_line.main([command, *(["--", "train"] if command == "launch" else [])]) == 2
    out, errors = capsys.readouterr()
    assert out == "" and errors.startswith(f"mirrorline {command}: the working directory is gone")
    assert errors.count("\n") == 1
    assert command_line.main([command, "--help"]) == 0


def test_a_run_whose_directory_is_moved_ends_and_says_so(tmp_path):
    process = start("train", "--dataset=digits", "--model=mlp", "--augment=", "--steps=1000000", "--steps_per_loop=10",
                    "--checkpoint_every=20", "--evaluate_every=500000", "--tensorboard=scalars", "--workdir=run",
                    cwd=tmp_path)
    deadline = time.monotonic() + 300
    while not metrics(tmp_path / "run") and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.02)
    os.rename(tmp_path / "run", tmp_path / "moved")
    _, errors = process.communicate(timeout=300)
    assert process.returncode == 1
    assert errors.startswith("mirrorline train: --workdir=run was moved or removed while") and errors.count("\n") == 1
    assert not (tmp_path / "run" / "config.json").exists() and not list(tmp_path.glob("run/checkpoints/*.index"))
    assert json.loads((tmp_path / "moved" / "config.json").read_text())["config"]["model"] == "mlp"


@pytest.fixture
def nobody(monkeypatch):
    """Takes a user's home and name away, as in a container that runs under a number that has neither."""
    def unknown(number):
        raise KeyError(f"getpwuid(): uid not found: {number}")

    monkeypatch.setattr(pwd, "getpwuid", unknown)
    for name in ("HOME", "LOGNAME", "USER", "LNAME", "USERNAME", "TFDS_DATA_DIR"):
        monkeypatch.delenv(name, raising=False)


def test_without_a_home_nothing_is_kept_and_no_folder_called_tilde_is_made(nobody, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert os.path.isabs(default_cache_dir())
    for _ in range(2):
        assert cached(("key",), lambda: {"a": [1, 2]}) == {"a": [1, 2]}
    with pytest.raises(UsageError, match="HOME is not set.*--data_dir"):
        default_data_dir()
    found = installation.check_data_dir(None)
    assert found.state == installation.WARNING and "HOME" in found.remedy
    assert tensorboard.login().startswith("USER@")
    assert list(tmp_path.iterdir()) == []
