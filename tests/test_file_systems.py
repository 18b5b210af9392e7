"""File systems without fsync."""
import errno
import os
import stat

import pytest

from pipeline.files import read_json, sync, write_json
from pipeline.monitoring.record_file import RecordFile
from tests.test_structure import SOURCES


def refuse(monkeypatch, number, folders_alone):
    """Lets fsync fail with an error's number, of folders or of files too."""
    durable = os.fsync

    def fsync(handle):
        if not folders_alone or stat.S_ISDIR(os.fstat(handle).st_mode):
            raise OSError(number, os.strerror(number))
        durable(handle)

    monkeypatch.setattr(os, "fsync", fsync)


def write(folder):
    """Writes a file of each kind below a folder."""
    write_json(folder / "a.json", {"a": 1})
    sync(folder)
    records = RecordFile(str(folder / "records" / "b.jsonl"))
    records.append(1, b"line\n")
    records.flush(sync=True)
    records.close()


@pytest.mark.parametrize("folders_alone", [True, False])
@pytest.mark.parametrize("number", [errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP])
def test_everything_is_written(tmp_path, monkeypatch, number, folders_alone):
    refuse(monkeypatch, number, folders_alone)
    write(tmp_path)
    assert read_json(tmp_path / "a.json") == {"a": 1}
    assert (tmp_path / "records" / "b.jsonl").read_bytes() == b"line\n"


def test_other_errors_of_fsync_are_raised(tmp_path, monkeypatch):
    refuse(monkeypatch, errno.EIO, folders_alone=True)
    with pytest.raises(OSError, match=os.strerror(errno.EIO)):
        write(tmp_path)


def test_fsync_is_called_in_one_place():
    assert [path for path, text in SOURCES.items() if "os.fsync(" in text] == ["pipeline/files.py"]
