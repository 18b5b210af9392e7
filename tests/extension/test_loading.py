"""A user's file is found, run once, and recognized; errors in it are one line with their location."""
import os
import re
import sys

import pytest

from pipeline import extension
from pipeline.errors import UsageError
from pipeline.models import registry

NET = """
import keras
from pipeline.models.registry import register

@register("{name}")
class Net(keras.Model):
    def __init__(self, num_classes=3):
        super().__init__()
        self.flatten, self.dense = keras.layers.Flatten(), keras.layers.Dense(num_classes)

    def call(self, x):
        return self.dense(self.flatten(x))
"""


def write(path, text):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return str(path)


def refusal(*names):
    """Returns the line with which names are refused."""
    with pytest.raises(UsageError) as caught:
        extension.load(names)
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize("text, line, message", [
    ("x = 1\ndef f(:\n", 2, "invalid syntax"),
    ("return 3", 1, "'return' outside function"),
    ("x = 1\n\nimport no_such_module", 3, "ModuleNotFoundError: No module named 'no_such_module'"),
    ("import neighbour", 2, "ZeroDivisionError: division by zero"),
    ("def f():\n    raise ValueError('of\\nmine')\nf()", 2, "ValueError: of mine"),
    ("import sys\nsys.exit('done')", 2, "SystemExit: done"),
])
def test_errors_in_a_file_are_one_line_with_their_location(tmp_path, text, line, message):
    write(tmp_path / "neighbour.py", "\n1 / 0")
    path = write(tmp_path / "mine.py", text)
    found = refusal(path)
    place = str(tmp_path / "neighbour.py") if "neighbour" in text else path
    assert place in found and f", line {line}: " in found and found.endswith(message), found
    assert "mine" not in sys.modules and refusal(path) == found  # A second try does not find half a module.


def test_an_invalid_extension_is_refused_before_anything_runs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    ran = write(tmp_path / "ran.py", f"open({str(tmp_path / 'trace')!r}, 'w')")
    assert "no such file or directory; where it has moved, give its new place" in refusal(ran, "gone.py")
    assert refusal(str(tmp_path)).endswith("is a folder: give a Python file, or the name of an installed package")
    assert "there is no module of that name; there is a file ran.py: give it with its ending" in refusal("ran")
    assert "--extension=a-b: give a Python file, such as my_models.py" in refusal("a-b")
    assert not (tmp_path / "trace").exists()


def test_a_file_runs_once_whatever_its_name(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    path = write(tmp_path / "json.py", "import neighbour\nneighbour.RUNS.append(__name__)")  # There is a json already.
    write(tmp_path / "neighbour.py", "RUNS = []")
    extension.load(("json.py", path, "./json.py"))
    assert sys.modules["neighbour"].RUNS == ["extension_json"] and sys.modules["json"].__file__ != path
    assert extension.absolute(["json.py", path]) == (path,)


def test_changes_are_detected_in_the_file_and_its_imports(tmp_path, capfd):
    path = write(tmp_path / "here" / "mine.py", "import parts.layers")
    write(tmp_path / "here" / "parts" / "layers.py", "A = 1")
    write(tmp_path / "here" / "unused.py", "")
    extension.load((path,))
    records = extension.records()
    assert [sorted(record["files"]) for record in records] == [["mine.py", "parts/layers.py"]]
    assert extension.changes(records, (path,)) == []
    os.rename(tmp_path / "here", tmp_path / "there")
    moved = str(tmp_path / "there" / "mine.py")
    assert extension.changes(records, (moved,)) == []
    write(tmp_path / "there" / "parts" / "layers.py", "A = 2")
    (name, old, new), = extension.changes(records, (moved,))
    assert name == "extension" and re.fullmatch(r"parts/layers.py [0-9a-f]{12}", old) and old[:-12] == new[:-12]
    assert extension.changes(records, ()) == [("extension", "mine.py", "without mine.py")]
    assert extension.changes(None, (moved,)) == []  # A run without that gets one.
    extension.load((moved,), records)
    assert capfd.readouterr().err == ("the code of this run's model or data has changed since it was trained: "
                                      f"{old}, now {new}\n")


def test_a_name_can_be_registered_once(tmp_path):
    first, second = (write(tmp_path / file, NET.format(name="net")) for file in ("first.py", "second.py"))
    extension.load((first,))
    assert refusal(second) == f"{second}, line 5: model 'net' is registered already, in {first}, line 5: give one of " \
                              "them another name"
    assert registry.model_class("net").__module__ == "first"
    built_in = write(tmp_path / "third.py", NET.format(name="cnn"))
    assert refusal(built_in) == f"{built_in}, line 5: model 'cnn' is built in: give yours another name"
    assert "'a b' cannot be the name of a model" in refusal(write(tmp_path / "fourth.py", NET.format(name="a b")))
    exec(NET.format(name="cell"), {"__name__": "__main__"})  # A notebook's cell, run again after a change.
    exec("\n" + NET.format(name="cell"), {"__name__": "__main__"})


def install(folder, package, source, points):
    """Installs a package with entry points into a folder, as pip leaves it."""
    write(folder / f"{package}.py", source)
    write(folder / f"{package}-1.0.dist-info" / "METADATA", f"Metadata-Version: 2.1\nName: {package}\nVersion: 1.0\n")
    write(folder / f"{package}-1.0.dist-info" / "entry_points.txt", f"[mirrorline.extensions]\n{points}\n")


def test_installed_packages_are_asked_for_names_that_are_not_built_in(tmp_path, monkeypatch, capfd):
    site = tmp_path / "site-packages"
    install(site, "tiny_nets", NET.format(name="tiny") + "\nCALLS = []\ndef offer():\n    CALLS.append(1)\n",
            "tiny = tiny_nets:offer")
    install(site, "broken_nets", "import no_such_module", "broken = broken_nets")
    monkeypatch.syspath_prepend(str(site))
    registry.model_class("cnn")
    assert "tiny_nets" not in sys.modules
    assert registry.create("tiny", 4, (8, 8, 1)).count_params() == 4 * 64 + 4
    output = capfd.readouterr().err
    assert output == ("the extension 'broken' of broken_nets 1.0 is left out: broken_nets: "
                      f"{site}/broken_nets.py, line 1: ModuleNotFoundError: No module named 'no_such_module'\n")
    with pytest.raises(UsageError, match="unknown model 'tinny': did you mean 'tiny'"):
        registry.model_class("tinny")
    assert capfd.readouterr().err == "" and sys.modules["tiny_nets"].CALLS == [1]  # Once a process.
    record, = extension.records()
    assert (record["kind"], record["name"], list(record["files"])) == ("entry point", "tiny_nets", ["tiny_nets.py"])
    assert extension.changes([record], ()) == []
    write(site / "tiny_nets.py", "changed")
    assert len(extension.changes([record], ())) == 1
