"""Exports get there whole or not at all, under numbers of their own, whatever else goes on in the folder."""
import os
import pathlib
import signal
import subprocess
import sys

import pytest

from pipeline.errors import RunFailure
from pipeline.export.publish import Staging, claimed
from tests.commands import environment
from tests.small_disk import small_disk

# Claims two forms, says its version, and goes on at the word of whoever started it: "publish", or to sleep.
EXPORT = """
import sys
from pipeline.export.publish import claimed
with claimed(sys.argv[1], ("keras", "onnx")) as staging:
    print(staging.version, flush=True)
    if sys.stdin.readline() == "publish\\n":
        for name in ("keras", "onnx"):
            open(f"{staging.folder(name)}/model", "w").write(f"{name} {staging.version}")
        staging.publish(("keras", "onnx"))
    else:
        open(f"{staging.folder('keras')}/model", "w").write("half")
        print("written", flush=True)
        sys.stdin.readline()
"""


def start(output):
    return subprocess.Popen([sys.executable, "-c", EXPORT, str(output)], env=environment(), text=True,
                            stdin=subprocess.PIPE, stdout=subprocess.PIPE)


def tell(process, word):
    process.stdin.write(word + "\n")
    process.stdin.flush()


def tree(folder):
    return {str(path.relative_to(folder)): path.read_bytes() if path.is_file() else None
            for path in pathlib.Path(folder).rglob("*")}


def publish(output, names=("keras",), text="first"):
    with claimed(str(output), names) as staging:
        for name in names:
            pathlib.Path(staging.folder(name), "model").write_text(text)
        staging.publish(names)
    return staging


def test_versions_are_published_beside_one_another(tmp_path):
    assert publish(tmp_path / "export").version == 1
    second = publish(tmp_path / "export", ("saved_model", "keras"), "second")
    # One number for all forms of an export, though there is no first SavedModel.
    assert second.version == 2 and second.published("saved_model") == str(tmp_path / "export/saved_model/2")
    assert tree(tmp_path / "export") == {
        "keras": None, "keras/1": None, "keras/1/model": b"first", "keras/2": None, "keras/2/model": b"second",
        "saved_model": None, "saved_model/2": None, "saved_model/2/model": b"second",
        "reports": None, "reports/1": None, "reports/2": None}


def test_exports_at_the_same_time_get_versions_of_their_own(tmp_path):
    processes = [start(tmp_path) for _ in range(4)]
    versions = [int(p.stdout.readline()) for p in processes]  # All are at work now.
    assert sorted(versions) == [1, 2, 3, 4]
    assert not [p for p in tmp_path.rglob("*") if p.name.isdigit()]
    for process in processes:
        tell(process, "publish")
    assert [p.wait(60) for p in processes] == [0] * 4
    for name in ("keras", "onnx"):
        assert {p.name: (p / "model").read_text() for p in (tmp_path / name).iterdir()} == {
            str(version): f"{name} {version}" for version in versions}


def test_what_a_killed_export_left_is_replaced_and_that_of_a_living_one_is_not(tmp_path):
    killed, living = start(tmp_path), start(tmp_path)
    versions = [int(p.stdout.readline()) for p in (killed, living)]
    for process in (killed, living):
        tell(process, "wait")
        assert process.stdout.readline() == "written\n"
    killed.send_signal(signal.SIGKILL)
    killed.wait(60)
    with claimed(str(tmp_path), ("keras",)) as staging:
        assert staging.version == max(*versions) + (versions[0] < versions[1])
        assert staging.replaced == [str(tmp_path / name / f"{versions[0]}.unproved")
                                    for name in ("keras", "onnx", "reports")]
        assert os.listdir(staging.folder("keras")) == []
        assert (tmp_path / "keras" / f"{versions[1]}.unproved" / "model").read_text() == "half"
    tell(living, "done")
    assert living.wait(60) == 0


def test_an_unpublished_format_stays_until_the_next_export(tmp_path):
    with claimed(str(tmp_path), ("keras", "onnx")) as staging:
        pathlib.Path(staging.folder("onnx"), "model").write_text("wrong")
        staging.publish(("keras",))
    assert (tmp_path / "onnx" / "1.unproved" / "model").read_text() == "wrong" and (tmp_path / "keras" / "1").is_dir()
    following = publish(tmp_path, ("saved_model",))
    assert following.version == 2 and following.replaced == [str(tmp_path / "onnx" / "1.unproved")]


def test_an_export_that_fails_leaves_what_was_there_and_nothing_else(tmp_path):
    output = tmp_path / "deep" / "export"
    with pytest.raises(KeyboardInterrupt), claimed(str(output), ("keras",)) as staging:
        pathlib.Path(staging.folder("keras"), "model").write_text("half")
        raise KeyboardInterrupt
    assert list(tmp_path.iterdir()) == []
    publish(output)
    before = tree(output)
    with pytest.raises(ZeroDivisionError), claimed(str(output), ("keras", "onnx")):
        1 / 0  # noqa: B018
    assert tree(output) == before


def test_a_published_version_is_never_replaced(tmp_path):
    with pytest.raises(RunFailure, match="keras/1 exists already"), claimed(str(tmp_path), ("keras",)) as staging:
        (tmp_path / "keras" / "1").mkdir()  # By somebody else, after the claim.
        staging.publish(("keras",))
    assert os.listdir(tmp_path / "keras") == ["1"] and os.listdir(tmp_path / "keras" / "1") == []


def test_a_full_disk_leaves_no_half_model(tmp_path):
    with small_disk(tmp_path / "disk", 2) as disk:
        output = os.path.join(disk.folder, "export")
        publish(output)
        before = tree(disk.folder)
        disk.fill(leave=200_000)
        with pytest.raises(OSError), claimed(output, ("keras", "onnx")) as staging:
            for name in ("keras", "onnx"):
                with open(os.path.join(staging.folder(name), "model"), "wb") as file:
                    file.write(bytes(150_000 if disk.real else 300_000))
        disk.free()
        assert tree(disk.folder) == before
        assert publish(output).version == 2


def test_a_folder_that_cannot_be_made_is_left_alone(tmp_path):
    (tmp_path / "keras").write_text("a file of somebody else")
    with pytest.raises(OSError):
        Staging(str(tmp_path), ("onnx", "keras"))
    assert tree(tmp_path) == {"keras": b"a file of somebody else"}
