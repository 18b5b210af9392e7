"""On a full disk records wait in memory and are written when there is room: none torn, lost or doubled."""
import errno
import json
import os

import numpy as np
import pytest
import tensorflow as tf
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from pipeline.files import no_room, read_json, write_json
from pipeline.metrics.evaluation import evaluation
from pipeline.monitoring.events import EventWriter, event_files, read_events
from pipeline.monitoring.framing import frames, read_frames
from pipeline.monitoring.full_disk import FullDisk
from pipeline.monitoring.metrics_log import JsonLines
from pipeline.monitoring.record_file import MOST_UNSYNCED, RecordFile
from pipeline.monitoring.recorder import Recorder
from pipeline.run_directory import RunDirectory
from tests.commands import assert_every_step_once
from tests.consoles import RecordingConsole
from tests.monitoring.windows import evaluated, window
from tests.small_disk import small_disk


@pytest.fixture
def disk(tmp_path):
    with small_disk(tmp_path / "disk", 2) as made:
        yield made


@pytest.fixture
def recorded(disk):
    """A Recorder on the small disk, its folder, and its warnings."""
    messages = []
    return Recorder(RunDirectory(disk.folder), 10, FullDisk(RecordingConsole(messages))), disk.folder, messages


def _window(recorder, first, last):
    recorder.on_window(window(last, last - first + 1, loss=1 / np.arange(first, last + 1)))


def _assert_whole(folder):
    """What is in the files are whole records."""
    text = open(os.path.join(folder, "metrics.jsonl"), "rb").read()
    assert text == b"" or text.endswith(b"\n")
    for line in text.splitlines():
        json.loads(line)
    for path in event_files(os.path.join(folder, "tensorboard", "train")):
        assert [end for _, end in read_events(path)][-1:] in ([os.path.getsize(path)], [])


def test_records_wait_for_room_and_are_written_once(recorded, disk):
    recorder, folder, messages = recorded
    _window(recorder, 1, 20)
    assert recorder.sync() and messages == []
    disk.fill(leave=4096)
    for first in range(21, 2021, 100):  # Until nothing fits any more, in the middle of one file or the other.
        _window(recorder, first, first + 99)
        _assert_whole(folder)
    assert not recorder.sync() and len(messages) == 1 and "full" in messages[0]
    recorder.on_evaluation(evaluated(2020, evaluation([7.0, 0, 7], np.ones([7, 5], np.float32), 2)))
    disk.free()
    _window(recorder, 2021, 2030)
    assert recorder.sync() and len(messages) == 1
    _assert_whole(folder)
    recorder.close()
    assert_every_step_once(folder, 2030)
    assert recorder.last_evaluation(2020, "test")["examples"] == 7


def test_going_back_on_a_full_disk_forgets_what_waits(recorded, disk):
    recorder, folder, _ = recorded
    _window(recorder, 1, 20)
    assert recorder.sync()
    disk.fill()
    _window(recorder, 21, 500)
    recorder.cut_after(40)  # Steps 21 to 40 are in memory, some perhaps in the file.
    _window(recorder, 41, 60)
    assert not recorder.sync()
    disk.free()
    assert recorder.sync()
    recorder.cut_after(50)
    _window(recorder, 51, 70)
    recorder.close()
    assert_every_step_once(folder, 70)


def test_a_run_that_starts_on_a_full_disk_records_from_memory(recorded, disk):
    recorder, folder, messages = recorded
    disk.fill()
    _window(recorder, 1, 200)
    assert not recorder.sync() and len(messages) == 1
    disk.free()
    assert recorder.sync()
    recorder.close()
    assert_every_step_once(folder, 200)


def test_what_can_be_given_up_makes_room_for_records(recorded, disk):
    recorder, folder, _ = recorded
    disk.fill()
    numbers = []
    recorder.disk.make_room = lambda number: (numbers.append(number), disk.free())
    _window(recorder, 1, 200)
    assert recorder.sync() and numbers == [errno.ENOSPC if disk.real else errno.EFBIG]
    assert_every_step_once(folder, 200)


def test_a_disk_that_is_found_full_when_it_is_synced(tmp_path, monkeypatch):
    """Network and copy-on-write file systems may take a write and have no room for it later: not to be had here."""
    path = str(tmp_path / "log")
    log = JsonLines(path)
    log.append([{"step": 1}])
    assert log.sync()

    def full(handle):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        log.append([{"step": 2}, {"step": 3}])
        assert not log.sync()
        assert open(path).read() == '{"step": 1}\n'
    log.append([{"step": 4}])
    assert log.sync() and [json.loads(line)["step"] for line in open(path)] == [1, 2, 3, 4]


def test_what_is_kept_for_a_failing_sync_stays_small(tmp_path):
    file = RecordFile(str(tmp_path / "log"))
    for step in range(40):
        file.append(step, b"x" * (MOST_UNSYNCED // 8))
        assert file.flush()
        assert sum(len(record) for _, record in file._unsynced) <= MOST_UNSYNCED


def test_a_file_for_which_there_is_no_room_stays_as_it_was(disk):
    path = os.path.join(disk.folder, "result.json")
    write_json(path, {"step": 1})
    disk.fill()
    with pytest.raises(OSError) as raised:
        write_json(path, {"steps": list(range(9999))})
    assert no_room(raised.value) and read_json(path) == {"step": 1} and not os.path.exists(f"{path}.tmp")


def test_another_error_is_raised(tmp_path):
    (tmp_path / "log").mkdir()
    file = RecordFile(str(tmp_path / "log"))
    file.append(1, b"record")
    with pytest.raises(IsADirectoryError):
        file.flush()


def test_records_are_framed_as_tensorflow_does(tmp_path):
    records = [bytes(range(size % 256)) * (1 + size // 256) for size in (0, 1, 2, 7, 88, 255, 4000)]
    with tf.io.TFRecordWriter(str(tmp_path / "theirs")) as writer:
        for record in records:
            writer.write(record)
    framed = frames(records)
    assert (tmp_path / "theirs").read_bytes() == b"".join(framed) and [len(record) for record in framed] == [
        12 + len(record) + 4 for record in records]
    assert [record for record, _ in read_frames(tmp_path / "theirs")] == records and frames([]) == []


def test_a_page_of_zeros_is_a_torn_record(tmp_path):
    """After a power cut a file may have its length and not its bytes."""
    writer = EventWriter(str(tmp_path))
    for step in (1, 2):
        writer.scalars(step, 1.0, {"loss": 1.0})
    writer.close()
    path = event_files(str(tmp_path))[0]
    size = os.path.getsize(path)
    os.truncate(path, size + 4096)
    assert [event.step for event, _ in read_events(path)] == [0, 1, 2]
    EventWriter(str(tmp_path)).cut_after(9)
    assert os.path.getsize(path) == size


def test_a_file_that_was_cut_is_not_written_again(tmp_path):
    """A TensorBoard that looks on would lose its place in it."""
    writer = EventWriter(str(tmp_path))
    for step in range(1, 6):
        writer.scalars(step, 1.0, {"loss": 1 / step})
    assert writer.flush(sync=True)
    looking = EventAccumulator(str(tmp_path))
    looking.Reload()
    writer.cut_after(3)
    for step in range(4, 9):
        writer.scalars(step, 2.0, {"loss": 2 / step})
    writer.close()
    looking.Reload()
    assert [e.step for e in looking.Scalars("loss") if e.wall_time == 2.0] == [4, 5, 6, 7, 8]
    assert len(event_files(str(tmp_path))) == 2
