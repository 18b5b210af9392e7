"""Flag files as editors write them: byte order marks, line ends, quotes and comments; errors name the line."""
import pytest
from absl import flags as absl_flags

import flags
from pipeline.errors import UsageError
from tests.test_edited_files import written


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
