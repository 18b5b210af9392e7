"""Checkpoints: damage is detected and reported, and the previous checkpoint is used."""
import os
import shutil

import numpy as np
import pytest

from pipeline.console import STANDARD
from pipeline.errors import RunFailure, UsageError
from pipeline.run_directory import RunDirectory
from pipeline.stored_checkpoint import find_checkpoint, stored_checkpoints
from pipeline.training.checkpoint import CheckpointStore
from pipeline.training.run_records import write_config
from tests.consoles import RecordingConsole
from tests.test_edited_files import RUN
from tests.training.small import build, run, weights


@pytest.fixture(scope="module")
def trained(strategy, tmp_path_factory):
    """An experiment with checkpoints of steps 1, 2 and 3, their folder, and the variables it had at each."""
    experiment = build(strategy(1), model="three_apis", precision="float32", ema_decay=0.9)
    folder = tmp_path_factory.mktemp("trained") / "checkpoints"
    store = CheckpointStore(str(folder), experiment.state, keep=3)
    values = {}
    for step in (1, 2, 3):
        run(experiment, 1, start=step - 1)
        store.save(step)
        values[step] = _everything(experiment)
    store.sync()
    return experiment, folder, values


@pytest.fixture
def saved(trained, tmp_path):
    """The same with a copy of the folder, which a test may damage."""
    experiment, folder, values = trained
    shutil.copytree(folder, tmp_path / "checkpoints")
    return experiment, str(tmp_path / "checkpoints"), values


def _everything(experiment):
    state = experiment.state
    return [*weights(experiment), *(v.numpy() for v in state.optimizer.variables), *(a.numpy() for a in state.ema),
            *(c.numpy() for c in state.counters().values())]


def _fresh(saved, console=STANDARD):
    """A store of the directory with other weights in the model, as in another process."""
    experiment, directory, _ = saved
    for variable in [*experiment.state.model.variables, *experiment.state.optimizer.variables, *experiment.state.ema,
                     *experiment.state.counters().values()]:
        variable.assign(np.zeros(variable.shape, variable.numpy().dtype))
    return CheckpointStore(directory, experiment.state, keep=3, console=console)


def _equal(first, second):
    return all(np.array_equal(a, b, equal_nan=True) for a, b in zip(first, second, strict=True))


def test_a_restore_restores_every_variable(saved):
    experiment, _, values = saved
    store = _fresh(saved)
    assert not _equal(_everything(experiment), values[3])
    assert store.restore() == 3
    assert _equal(_everything(experiment), values[3])
    assert (int(experiment.state.global_step.numpy()), int(experiment.state.position.numpy())) == (3, 48)


def _cut_short(path):
    with open(path, "r+b") as file:
        file.truncate(os.path.getsize(path) // 2)


def _flip_a_bit(path):
    with open(path, "r+b") as file:
        file.seek(os.path.getsize(path) // 2)
        byte = file.read(1)
        file.seek(-1, os.SEEK_CUR)
        file.write(bytes([byte[0] ^ 1]))


@pytest.mark.parametrize("suffix", [".index", ".data-00000-of-00001", ".manifest.json"])
@pytest.mark.parametrize("damage", [_cut_short, _flip_a_bit, os.remove])
def test_a_damaged_checkpoint_is_reported_and_the_previous_one_is_used(saved, damage, suffix):
    experiment, directory, values = saved
    damage(os.path.join(directory, f"ckpt-3{suffix}"))
    messages = []
    assert _fresh(saved, RecordingConsole(messages)).restore() == 2
    assert _equal(_everything(experiment), values[2])
    assert len(messages) == 1 and "ckpt-3" in messages[0] and "step 2" in messages[0]


def test_a_run_does_not_start_again_if_every_checkpoint_is_damaged(saved):
    _, directory, _ = saved
    for step in (1, 2, 3):
        _cut_short(os.path.join(directory, f"ckpt-{step}.data-00000-of-00001"))
    with pytest.raises(RunFailure, match="every checkpoint .* damaged"):
        _fresh(saved, RecordingConsole([])).restore()


def test_an_unfinished_save_is_not_a_checkpoint(saved):
    _, directory, _ = saved
    for name in ("ckpt-4.index", "ckpt-4.data-00000-of-00001"):
        with open(os.path.join(directory, name), "wb") as file:
            file.write(b"half")
    os.mkdir(os.path.join(directory, "ckpt-4_temp"))
    messages = []
    assert _fresh(saved, RecordingConsole(messages)).restore() == 3
    assert messages == [] and not any("ckpt-4" in name for name in os.listdir(directory))


def test_the_latest_checkpoints_are_kept_over_restarts(saved):
    experiment, directory, _ = saved
    again = _fresh(saved)
    step = again.restore()
    run(experiment, 1, start=step)
    again.save(4)
    again.sync()
    assert [c.step for c in stored_checkpoints(directory)] == [4, 3, 2]
    assert not any("ckpt-1." in name for name in os.listdir(directory))


def test_the_best_checkpoint_outlives_the_removal_of_old_ones(saved):
    experiment, directory, values = saved
    store = _fresh(saved)
    store.restore()
    store.keep_best(3)
    for step in range(4, 8):
        run(experiment, 1, start=step - 1)
        store.save(step)
    store.sync()
    best = find_checkpoint(directory, "best")
    assert best.step == 3 and best.problem is None
    store.read(best)
    assert _equal(_everything(experiment), values[3])
    store.keep_best(7)
    assert [c.step for c in stored_checkpoints(os.path.join(directory, "best"))] == [7]


def test_checkpoints_are_found_by_name(saved):
    _, directory, _ = saved
    assert find_checkpoint(directory, "latest").step == find_checkpoint(directory, "newest").step == 3
    assert find_checkpoint(directory, "2").step == 2
    assert find_checkpoint(directory, os.path.join(directory, "ckpt-1")).step == 1
    with pytest.raises(UsageError, match="no checkpoint '9'.*steps there: 3, 2, 1"):
        find_checkpoint(directory, "9")
    with pytest.raises(UsageError, match="no checkpoint in"):
        find_checkpoint(directory, "best")


def test_a_checkpoint_of_another_architecture_is_refused(saved, strategy):
    _, directory, _ = saved
    other = build(strategy(1), model="mlp", precision="float32")
    before = weights(other)
    with pytest.raises(UsageError, match="another model: .* of shape"):
        CheckpointStore(directory, other.state, keep=3).restore()
    assert _equal(before, weights(other))
    assert [c.step for c in stored_checkpoints(directory)] == [3, 2, 1]


@pytest.mark.parametrize("options,says", [(dict(optimizer="sgd"), "another optimizer"),
                                          (dict(ema_decay=0.0), "another --ema_decay")])
def test_a_checkpoint_of_another_state_is_refused(saved, strategy, options, says):
    _, directory, _ = saved
    other = build(strategy(1), model="three_apis", precision="float32", **{"ema_decay": 0.9, **options})
    before = _everything(other)
    with pytest.raises(UsageError, match=says):
        CheckpointStore(directory, other.state, keep=3).restore()
    assert _equal(before, _everything(other))


def test_a_checkpoint_that_another_run_saved_is_refused_and_stays(saved, tmp_path):
    _, directory, _ = saved
    own, other = RunDirectory(str(tmp_path)), RunDirectory(str(tmp_path / "other"))
    os.mkdir(other.path)
    for run_directory in (own, own, other):
        known = run_directory.config
        write_config(run_directory, RUN)
        assert known is None or known == run_directory.config  # It stays the same run.
    store = _fresh(saved)
    store.restore()
    store.save(4, best=True)
    assert store.sync() and _fresh(saved).restore() == 4 and find_checkpoint(directory, "best").step == 4
    shutil.move(other.file("config.json"), own.file("config.json"))  # As if its checkpoints had been copied from there.
    with pytest.raises(UsageError, match="another run saved .*ckpt-4, .*--initialize_from"):
        _fresh(saved).restore()
    assert [c.step for c in stored_checkpoints(directory)] == [4, 3, 2]
    for name in ("4", "best"):
        with pytest.raises(UsageError, match="ckpt-4 cannot be used: another run saved it"):
            find_checkpoint(directory, name)


def test_a_checkpoint_that_was_renamed_is_not_taken_for_that_of_another_step(saved):
    _, directory, _ = saved
    for name in [name for name in os.listdir(directory) if name.startswith("ckpt-2.")]:
        shutil.copy(os.path.join(directory, name), os.path.join(directory, name.replace("ckpt-2.", "ckpt-7.")))
    messages = []
    assert _fresh(saved, RecordingConsole(messages)).restore() == 3
    assert len(messages) == 1 and "ckpt-7: it was renamed, and is of step 2; going back to step 3" in messages[0]


def test_a_checkpoint_that_was_being_removed_is_not_reported_as_damaged(saved):
    _, directory, _ = saved
    for suffix in (".index", ".data-00000-of-00001"):  # Killed while the manager deletes its oldest one.
        os.remove(os.path.join(directory, f"ckpt-1{suffix}"))
    messages = []
    store = _fresh(saved, RecordingConsole(messages))
    assert store.restore() == 3 and messages == []
    assert [c.step for c in stored_checkpoints(directory)] == [3, 2]


def test_an_error_of_the_writer_is_raised(saved):
    experiment, directory, _ = saved
    store = _fresh(saved)
    run(experiment, 1, start=store.restore())
    os.mkdir(os.path.join(directory, "ckpt-4.manifest.json.tmp"))  # The manifest cannot be written.
    store.save(4)
    with pytest.raises(RunFailure, match="could not be written .*ckpt-4.manifest.json.tmp"):
        store.sync()
    assert find_checkpoint(directory, "latest").step == find_checkpoint(directory, "newest").step == 3


def _train_to(saved, store, steps, best=()):
    """Trains from the restored step on and saves; adds the values of each step."""
    experiment, _, values = saved
    for step in steps:
        run(experiment, 1, start=step - 1)
        store.save(step, best=step in best)
        values[step] = _everything(experiment)


def test_forget_after_removes_later_checkpoints(saved):
    experiment, directory, values = saved
    store = CheckpointStore(directory, experiment.state, keep=5)
    values = dict(values)
    saved = experiment, directory, values
    store.restore()
    _train_to(saved, store, (4, 5), best=(5,))
    store.forget_after(3)  # In the middle of a run, with a save under way.
    assert [c.step for c in stored_checkpoints(directory)] == [3, 2, 1] and store.last_step == 3
    assert not store.has_best(5) and not any("-4" in n or "-5" in n for n in os.listdir(directory))
    assert store.restore() == 3 and _equal(_everything(experiment), values[3])
    old = {step: values[step] for step in (4, 5)}
    _train_to(saved, store, (4, 5), best=(4,))
    assert store.sync() and store.has_best(4)
    assert all(_equal(values[step], old[step]) for step in old)
    _train_to(saved, store, (6,))
    assert store.sync() and [c.step for c in stored_checkpoints(directory)] == [6, 5, 4, 3, 2]
    store.forget_after(4)
    assert store.has_best(4) and [c.step for c in stored_checkpoints(directory)] == [4, 3, 2]
    _train_to(saved, store, (7,))
    assert store.sync() and [c.step for c in stored_checkpoints(directory)] == [7, 4, 3, 2]  # Only 5 are too many.
    store.forget_after(1)
    assert stored_checkpoints(directory) == [] and store.last_step is None and store.restore() == 0
    assert not store.has_best(4)


class Killed(BaseException):
    """The process ends here."""


@pytest.mark.parametrize("removals", range(6))
def test_a_kill_during_forget_after_leaves_complete_checkpoints(saved, monkeypatch, removals):
    experiment, directory, _ = saved
    store, left = _fresh(saved), [removals]

    def remove(path, really=os.remove):
        if left[0] == 0:
            raise Killed
        left[0] -= 1
        really(path)

    with monkeypatch.context() as patch, pytest.raises(Killed):
        patch.setattr(os, "remove", remove)
        store.forget_after(1)
    messages = []
    reached = CheckpointStore(directory, experiment.state, keep=3, console=RecordingConsole(messages)).restore()
    assert messages == [] and reached == (3, 2, 2, 2, 1, 1)[removals]


def test_a_missing_checkpoint_does_not_replace_the_best(saved):
    experiment, directory, _ = saved
    store = _fresh(saved)
    store.restore()
    store.keep_best(2)
    store.keep_best(9)
    assert store.has_best(2)


def test_a_best_checkpoint_of_a_later_step_is_removed(saved):
    experiment, directory, _ = saved
    store = _fresh(saved)
    store.keep_best(3)
    with open(os.path.join(directory, "ckpt-3.data-00000-of-00001"), "ab") as file:
        file.write(b"x")
    assert _fresh(saved).restore() == 2
    assert stored_checkpoints(os.path.join(directory, "best")) == []
