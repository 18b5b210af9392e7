"""A forked command behaves as a new process: output, exit code and environment."""
import os
import signal
import subprocess

import pytest

from tests.commands import mirrorline, start


@pytest.mark.parametrize("arguments", [("--version",), ("trian",), ("train", "--epochs=0"), ("evaluate", "--help"),
                                       ("evaluate", "--workdir=nowhere")])
def test_fork_behaves_as_a_new_process(tmp_path, arguments):
    one, other = (mirrorline(*arguments, cwd=tmp_path, fresh=fresh) for fresh in (True, False))
    assert (one.returncode, one.stdout, one.stderr) == (other.returncode, other.stdout, other.stderr)
    assert one.stdout or one.stderr


def test_fork_has_its_own_directory_and_end(tmp_path):
    process = start("train", "--model=mlp", "--steps=1000000", "--workdir=run", cwd=tmp_path)
    try:
        with pytest.raises(subprocess.TimeoutExpired):
            process.wait(timeout=0.2)
        assert os.readlink(f"/proc/{process.pid}/cwd") == str(tmp_path)
        other = start("--version", cwd=tmp_path)
        assert other.wait(timeout=600) == 0 and process.poll() is None and other.pid != process.pid
    finally:
        process.send_signal(signal.SIGKILL)
    process.communicate(timeout=600)
    assert process.returncode == -signal.SIGKILL
