"""A full disk: the last good checkpoint is kept, training continues, and the next save retries."""
import errno
import os
import threading

import numpy as np
import pytest

from pipeline.errors import RunFailure
from pipeline.monitoring.full_disk import FullDisk
from pipeline.stored_checkpoint import find_checkpoint, stored_checkpoints
from pipeline.training.best_checkpoint import BestCheckpoint
from pipeline.training.checkpoint import CheckpointStore
from tests.consoles import RecordingConsole
from tests.small_disk import PAGE, LimitedFiles, small_disk
from tests.training.small import build, weights

SIZE = 640 * 1024  # Of a checkpoint of this model (607 kB) with its manifest, rounded up to pages and then some.


@pytest.fixture(scope="module")
def experiment(strategy):
    return build(strategy(1), model="mlp", precision="float32", optimizer="adam")


@pytest.fixture
def disk(tmp_path):
    with small_disk(tmp_path / "disk", 6) as made:
        yield made


class Run:
    """A store in a folder, its experiment, and the reported lines."""

    def __init__(self, experiment, folder, keep=3):
        self.experiment, self.messages, self.values = experiment, [], {}
        self.directory = os.path.join(folder, "checkpoints")
        self.store = CheckpointStore(self.directory, experiment.state, keep, RecordingConsole(self.messages))

    def save(self, step, best=False):
        for variable in self.experiment.state.model.variables:
            variable.assign_add(np.full(variable.shape, step, variable.dtype))  # As if a step had been trained.
        self.values[step] = weights(self.experiment)
        self.store.save(step, best=best)

    def good(self):
        return [c.step for c in stored_checkpoints(self.directory) if not c.problem]

    def leftovers(self):
        """Files that belong to no finished checkpoint."""
        stems = {f"ckpt-{c.step}" for c in stored_checkpoints(self.directory)}
        return [n for n in os.listdir(self.directory) if n.split(".")[0] not in {*stems, "best", "checkpoint"}
                or ".tmp" in n]

    def assert_restores(self, step):
        for variable in self.experiment.state.model.variables:
            variable.assign(np.zeros(variable.shape, variable.dtype))
        assert CheckpointStore(self.directory, self.experiment.state, 3).restore() == step
        assert all(np.array_equal(a, b) for a, b in zip(weights(self.experiment), self.values[step], strict=True))


def test_a_full_disk_keeps_the_last_good_checkpoint_and_a_later_save_succeeds(experiment, disk):
    this = Run(experiment, disk.folder)
    for step in (1, 2):
        this.save(step)
    assert this.store.sync() and this.good() == [2, 1]
    disk.fill(leave=100_000)
    this.save(3)
    assert not this.store.sync()
    assert this.store.last_step == 2 and 2 in this.good() and 3 not in this.good() and this.leftovers() == []
    message, = this.messages
    assert all(words in message for words in ("full", "step 3", "step 2"))
    assert "step 2" in this.store.full_message and "run the same command again" in this.store.full_message
    disk.fill(leave=100_000)  # What was freed is taken by somebody else.
    for step in (4, 5):
        this.save(step)
    assert not this.store.sync() and len(this.messages) == 1  # One warning, not one for each try.
    assert this.good() == ([2] if disk.real else [2, 1])  # Older ones made room.
    disk.free()
    this.save(6)
    assert this.store.sync() and this.store.last_step == 6
    assert len(this.messages) == 2 and "room" in this.messages[1] and "step 6" in this.messages[1]
    for step in (7, 8, 9):
        this.save(step)
    assert this.store.sync() and this.good() == [9, 8, 7] and this.leftovers() == []
    this.assert_restores(9)


def test_the_next_save_reports_a_failure(experiment, disk):
    this = Run(experiment, disk.folder)
    this.save(1)
    assert this.store.sync()
    disk.fill(leave=100_000)
    this.save(2)
    this.store._checkpoint.sync()  # It fails while there is no room.
    disk.free()
    this.save(3)
    assert "step 2" in this.messages[0] and this.store.sync() and this.good() == [3, 1]
    assert len(this.messages) == 2


def test_the_same_step_is_retried(experiment, disk):
    this = Run(experiment, disk.folder)
    disk.fill(leave=100_000)
    this.save(1)
    assert not this.store.sync() and this.store.last_step is None and "none yet" in this.messages[0]
    assert "nothing is saved" in this.store.full_message
    disk.free()
    this.store.save(1)
    assert this.store.sync() and this.good() == [1]


def test_a_checkpoint_is_complete_or_absent_whatever_the_free_space(experiment, disk):
    """Space that runs out in every part of a save: data, index, their merging, manifest, the manager's list, best."""
    this = Run(experiment, disk.folder)
    this.save(1)
    assert this.store.sync()
    outcomes, step, last = set(), 1, 1
    amounts = [0, PAGE, SIZE // 2, *range(SIZE - 16 * PAGE, SIZE + 4 * PAGE, 2 * PAGE), SIZE * 2]
    for leave in amounts:
        disk.free()
        step += 1
        disk.fill(leave)
        this.save(step, best=True)
        saved = this.store.sync()
        outcomes.add(saved)
        last = step if saved else last
        assert this.good()[0] == last and this.leftovers() == [], leave
        best = stored_checkpoints(os.path.join(this.directory, "best"))
        assert [c.problem for c in best] == [None] * len(best) and len(best) <= 1
        if saved:
            assert this.store.has_best(step)  # A link where there is no room for a copy.
    assert outcomes == {True, False}
    disk.free()
    this.assert_restores(last)


def test_a_limit_on_the_size_of_files_is_handled_as_a_full_disk(experiment, tmp_path):
    this, disk = Run(experiment, tmp_path), LimitedFiles(tmp_path)
    for step in (1, 2):
        this.save(step)
    assert this.store.sync()
    disk.fill(leave=300_000)
    try:
        this.save(3)
        assert not this.store.sync()
    finally:
        disk.free()
    assert this.good() == [2, 1] and this.leftovers() == []  # To remove others would not help.
    assert "File too large" in this.messages[0]
    this.save(4)
    assert this.store.sync() and this.good() == [4, 2, 1]


def test_another_error_ends_the_run(experiment, tmp_path):
    this = Run(experiment, tmp_path)
    this.save(1)
    assert this.store.sync()
    os.mkdir(os.path.join(this.directory, "ckpt-2.manifest.json.tmp"))  # The manifest cannot be written.
    this.save(2)
    with pytest.raises(RunFailure, match="could not be written"):
        this.store.sync()
    assert this.messages == []


def test_the_previous_best_is_kept_without_room_for_the_new_one(experiment, disk):
    this = Run(experiment, disk.folder)
    this.save(1, best=True)
    assert this.store.sync() and this.store.has_best(1)
    disk.fill(leave=100_000)
    this.save(2, best=True)
    assert not this.store.sync() and this.store.has_best(1)
    disk.free()
    this.save(3)
    assert this.store.sync() and find_checkpoint(this.directory, "best").step == 1
    this.save(4, best=True)
    assert this.store.sync() and find_checkpoint(this.directory, "best").step == 4


def test_the_best_checkpoint_is_copied_while_training_continues(experiment, tmp_path, monkeypatch):
    this, threads = Run(experiment, tmp_path, keep=1), []
    keep = BestCheckpoint.keep
    monkeypatch.setattr(BestCheckpoint, "keep", lambda best, step: (
        threads.append(threading.current_thread()), keep(best, step))[1])
    this.save(1, best=True)
    this.save(2)
    this.save(3)
    assert this.store.sync() and this.good() == [3] and this.store.has_best(1)
    assert len(threads) == 1 and threads[0] is not threading.main_thread()
    again = Run(experiment, tmp_path, keep=1)
    assert again.store.restore() == 3 and again.store.has_best(1)


def test_damage_to_a_checkpoint_does_not_damage_the_best(experiment, tmp_path):
    this = Run(experiment, tmp_path)
    this.save(1, best=True)
    assert this.store.sync()
    with open(os.path.join(this.directory, "ckpt-1.data-00000-of-00001"), "r+b") as file:
        file.write(b"damage")
    assert this.good() == [] and this.store.has_best(1)


def test_records_and_checkpoints_report_a_full_disk_once(experiment, disk):
    messages = []
    shared = FullDisk(RecordingConsole(messages))
    this = Run(experiment, disk.folder)
    this.store = CheckpointStore(this.directory, experiment.state, 3, RecordingConsole(messages), shared)
    shared.failed("the disk is full")
    disk.fill(leave=100_000)
    this.save(1)
    assert not this.store.sync() and messages == ["the disk is full"]
    disk.free()
    this.save(2)
    assert this.store.sync() and len(messages) == 2 and "step 2" in messages[1]


def test_checkpoints_are_removed_to_make_room_for_records(experiment, disk):
    this = Run(experiment, disk.folder)
    for step in (1, 2, 3):
        this.save(step)
    this.store.disk.make_room(errno.ENOSPC)  # With a save under way.
    assert this.good() == [3] and this.messages == []
    this.store.disk.failed("full")
    this.save(4)
    assert this.store.sync() and this.good() == [4, 3]
    assert "step 4 is saved" in this.messages[1] and "older ones were removed" in this.messages[1]
