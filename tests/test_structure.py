"""The rules of the code's structure, checked in the source."""
import ast
import functools
import os
import re
import subprocess
import sys

import pytest

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
PACKAGES = ("flags", "launch", "pipeline", "recipes")
STEP = ("pipeline/training/step.py", "pipeline/training/inference.py", "pipeline/export/signatures.py",
        "pipeline/distributed/agreement.py", "pipeline/data/encoded_header.py", "pipeline/data/encoded_images.py",
        "pipeline/data/image_reader.py", "pipeline/verification/gpu_kernels.py")
WITHOUT_TENSORFLOW = ("flags/", "recipes/", "launch/__init__.py", "launch/__main__.py", "pipeline/silence.py",
                      "launch/commands/launch.py", "launch/cluster/", "pipeline/distributed/cluster.py",
                      "pipeline/distributed/rendezvous.py", "pipeline/distributed/peer_failure.py",
                      "pipeline/distributed/bind_address.py", "pipeline/__init__.py", "pipeline/architectures.py",
                      "pipeline/augmentation.py",
                      "pipeline/callbacks.py", "pipeline/choices.py", "pipeline/config.py", "pipeline/config_checks.py",
                      "pipeline/console.py", "pipeline/dataset_name.py", "pipeline/derived_options.py",
                      "pipeline/errors.py",
                      "pipeline/extension.py", "pipeline/files.py", "pipeline/finetuning.py", "pipeline/image_sizes.py",
                      "pipeline/import_hook.py", "pipeline/locks.py",
                      "pipeline/options.py", "pipeline/paths.py", "pipeline/preprocessing.py", "pipeline/terminal.py",
                      "pipeline/register.py", "pipeline/registration.py", "pipeline/registry.py")
HEAVY = ("tensorflow", "keras", "numpy", "tensorflow_datasets", "tensorboard", "matplotlib", "sklearn", "rich",
         "optuna")
# What each room may import of this house. Nothing imports launch but launch.
MAY_IMPORT = {
    "launch": ("launch", "flags", "pipeline", "recipes"),
    "flags": ("flags", "pipeline.config", "pipeline.errors", "pipeline.files", "pipeline.options", "pipeline.paths",
              "recipes"),
    "recipes": ("recipes",),
    "pipeline": ("pipeline",),
}
# What a command knows before it runs: of the standard library and of each other alone.
BOTTOM = tuple(f"pipeline/{name}.py" for name in (
    "architectures", "augmentation", "callbacks", "choices", "config", "config_checks", "console", "dataset_name",
    "derived_options", "errors", "extension", "finetuning", "image_sizes", "options", "paths", "preprocessing",
    "registration", "registry", "terminal"))
# What puts the parts together; the parts know nothing of it.
TOP = ("pipeline/runs.py",)
MOST_LINES = 350
VAGUE = {"utils", "util", "helpers", "helper", "manager", "common", "misc", "tools"}


def sources(*folders):
    """Returns {path from the root: text} of every Python file in the folders."""
    found = {}
    for folder in folders:
        for parent, _, files in os.walk(os.path.join(ROOT, folder)):
            for file in files:
                if file.endswith(".py"):
                    path = os.path.join(parent, file)
                    with open(path, encoding="utf-8") as text:
                        found[os.path.relpath(path, ROOT)] = text.read()
    return found


SOURCES = sources(*PACKAGES)
parse = functools.cache(ast.parse)  # The same files are looked at from many sides.


@functools.cache
def imports(text, everywhere=True):
    """Returns the dotted names that a source imports; `from a import b` counts as a.b.

    With everywhere=False only what is imported when the module is.
    """
    tree, names = parse(text), []
    inside = {id(node) for function in ast.walk(tree) if isinstance(function, (ast.FunctionDef, ast.Lambda))
              for node in ast.walk(function)} if not everywhere else set()
    for node in ast.walk(tree):
        if id(node) in inside:
            continue
        if isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            names += [f"{node.module}.{alias.name}" for alias in node.names]
            assert node.level == 0, "imports say the whole name"
    return names


def under(name, *parents):
    return any(name == parent or name.startswith(parent + ".") for parent in parents)


def wrong_direction(path, text):
    """Returns the imports of a file in the wrong direction."""
    room = path.split("/")[0]
    wrong = [name for name in imports(text) if under(name, *PACKAGES) and not under(name, *MAY_IMPORT[room])]
    if path in BOTTOM:
        known = [other.removesuffix(".py").replace("/", ".") for other in BOTTOM]
        wrong += [name for name in imports(text) if not under(name, *known)
                  and name.split(".")[0] not in sys.stdlib_module_names]
    if room == "pipeline" and path not in TOP:
        wrong += [name for name in imports(text) if under(name, "pipeline.runs")]
    return wrong


def step_only(text):
    """Returns what a file uses that belongs to the step's files only."""
    found = []
    for node in ast.walk(parse(text)):
        if isinstance(node, ast.Attribute):
            whole = ast.unparse(node)
            if node.attr == "GradientTape" or whole == "tf.function" or re.search(r"strategy\.run$", whole):
                found.append(whole)
    return found


def unannotated(text):
    """Returns the public functions and methods of a module of which an argument or the result has no type."""
    found = []
    for body in [parse(text).body, *(node.body for node in parse(text).body if isinstance(node, ast.ClassDef))]:
        for node in body:
            if isinstance(node, ast.FunctionDef) and not node.name.startswith("_"):
                arguments = node.args.posonlyargs + node.args.args + node.args.kwonlyargs
                if node.returns is None or any(a.annotation is None for a in arguments if a.arg not in ("self", "cls")):
                    found.append(node.name)
    return found


def unexplained(text):
    """Returns the lines of imports inside functions that have no reason: a comment with them, or one for the file."""
    lines = text.split("\n")
    if "# Imports inside functions: " in text:
        return []
    inside = {node.lineno for function in ast.walk(parse(text)) if isinstance(function, ast.FunctionDef)
              for node in ast.walk(function) if isinstance(node, (ast.Import, ast.ImportFrom))}
    return sorted(n for n in inside if "# " not in lines[n - 1].replace("# noqa", "")
                  and not lines[n - 2].strip().startswith("#"))


def undocumented(text):
    """Returns the public functions and classes of a module that have no docstring."""
    return [node.name for node in parse(text).body
            if isinstance(node, (ast.FunctionDef, ast.ClassDef)) and not node.name.startswith("_")
            and not ast.get_docstring(node)]


@pytest.mark.parametrize("path, text", [
    ("pipeline/data/load.py", "from launch import commands"), ("pipeline/data/load.py", "import flags.parsing"),
    ("flags/parsing.py", "from pipeline.training import trainer"), ("pipeline/config.py", "import numpy"),
    ("pipeline/models/cnn.py", "def f():\n    from pipeline.runs import build"),
    ("recipes/__init__.py", "import pipeline"),
])
def test_import_check_detects_a_wrong_direction(path, text):
    assert wrong_direction(path, text)


def test_imports_go_one_way():
    assert {path: wrong for path, text in SOURCES.items() if (wrong := wrong_direction(path, text))} == {}


def test_packages_do_not_import_each_other_in_a_circle():
    rooms = {}
    for path, text in sources("pipeline").items():
        room = path.split("/")[1].removesuffix(".py")
        rooms.setdefault(room, set()).update(name.split(".")[1] for name in imports(text) if under(name, "pipeline"))
    for room, needs in rooms.items():
        needs.discard(room)
    while free := [room for room, needs in rooms.items() if not needs & set(rooms)]:
        for room in free:
            del rooms[room]
    assert rooms == {}


@pytest.mark.parametrize("text", ["def f(x): pass", "def f(x: int): pass", "class A:\n    def f(x) -> None: pass"])
def test_type_check_detects_a_missing_annotation(text):
    assert unannotated(text) == ["f"]


def test_public_functions_have_types():
    assert {path: names for path, text in SOURCES.items()
            if (names := unannotated(text))} == {}


def test_no_two_classes_have_one_name():
    places = {}
    for path, text in {**SOURCES, **sources("benchmarks")}.items():
        for node in ast.walk(parse(text)):
            if isinstance(node, ast.ClassDef):
                places.setdefault(node.name, []).append(path)
    assert {name: paths for name, paths in places.items() if len(paths) > 1} == {}


def test_tables_of_the_terminal_are_made_in_one_module():
    users = {path for path, text in SOURCES.items() if any(under(name, "rich.table") for name in imports(text))}
    assert users == {"pipeline/console_table.py"}


def test_modules_of_the_benchmarks_do_not_import_each_other_in_a_circle():
    needs = {path.split("/")[1].removesuffix(".py"): {
        name.split(".")[1] for name in imports(text) if under(name, "benchmarks")}
        for path, text in sources("benchmarks").items()}
    while free := [module for module, others in needs.items() if not others & set(needs)]:
        for module in free:
            del needs[module]
    assert needs == {}


def test_the_check_of_imports_inside_functions_sees_one_without_a_reason():
    assert unexplained("def f():\n    import keras") == [2]
    assert unexplained("def f():\n    import keras  # Seconds.") == []
    assert unexplained("# Imports inside functions: an optional package.\ndef f():\n    import keras") == []


def test_imports_inside_functions_have_a_reason():
    assert {path: lines for path, text in SOURCES.items() if (lines := unexplained(text))} == {}


def test_absl_flags_stay_on_the_command_line():
    users = {path for path, text in SOURCES.items()
             if any(under(name, "absl.flags", "absl.app") for name in imports(text))}
    assert users and all(path.startswith(("flags/", "launch/")) for path in users)
    assert not [path for path, text in SOURCES.items() if "absl.flags.FLAGS" in imports(text)
                or re.search(r"\bflags\.FLAGS\b|\bapp\.run\(", text)]


@pytest.mark.parametrize("text", ["with tf.GradientTape() as tape: pass", "@tf.function\ndef f(): pass",
                                  "self.strategy.run(f)", "strategy.run(f)"])
def test_step_check_detects_what_belongs_there(text):
    assert step_only(text)


def test_tape_graph_and_replicas_are_only_in_the_step():
    assert {path: found for path, text in SOURCES.items() if path not in STEP and (found := step_only(text))} == {}
    assert all(step_only(SOURCES[path]) for path in STEP)


def test_modules_without_tensorflow_import_nothing_heavy():
    for path, text in SOURCES.items():
        if path.startswith(WITHOUT_TENSORFLOW):
            assert not [name for name in imports(text) if under(name, *HEAVY)], path


def test_commands_import_nothing_heavy_until_they_run():
    for path, text in SOURCES.items():
        if path.startswith("launch/"):
            assert not [name for name in imports(text, everywhere=False) if under(name, *HEAVY)], path


WATCHED = f"""
import sys
from launch.__main__ import COMMANDS, main
for command in COMMANDS:
    assert main([command, "--help"]) == 0
    assert main([command, "--no_such_flag"]) == 2
assert main([]) == 0
print(sorted(set(sys.modules) & set({HEAVY})), file=sys.stderr)
"""


def test_help_and_wrong_flags_load_nothing_heavy():
    done = subprocess.run([sys.executable, "-c", WATCHED], cwd=ROOT, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr
    assert done.stderr.splitlines()[-1] == "[]"


PRIVATE = re.compile(r"keras\.src|tensorflow\.(python|core|tsl|lite\.python)\b|_flatten_layers|saving_lib|"
                     r"_cross_device_ops|_async_checkpointer|\._live_render|_all_reduce_sum_gradients|"
                     r"_backend_update_step|_open_name_scope|_seed_generators|\._ingester|_stdin_handle")


def test_private_interfaces_are_in_one_module_per_library():
    users = {path for path, text in SOURCES.items() if PRIVATE.search(text)}
    assert users == {f"pipeline/internals/{library}_internals.py"
                     for library in ("keras", "tensorflow", "tensorboard", "rich")}


def test_modules_have_specific_names():
    names = {part.removesuffix(".py") for path in sources(*PACKAGES, "tests", "benchmarks") for part in path.split("/")}
    assert not names & VAGUE


def test_files_are_short():
    assert {path: lines for path, text in SOURCES.items() if (lines := text.count("\n")) > MOST_LINES} == {}


def test_every_public_function_and_class_is_documented():
    assert undocumented("def f(): pass\nclass A: pass\ndef _g(): pass\ndef h():\n    'says.'") == ["f", "A"]
    assert {path: names for path, text in SOURCES.items()
            if path.startswith("pipeline/") and (names := undocumented(text))} == {}
    assert [path for path, text in SOURCES.items() if text.strip() and not ast.get_docstring(parse(text))] == []


def test_every_folder_of_modules_is_a_package():
    """Otherwise it would be missing from an installation."""
    folders = {os.path.dirname(path) for path in SOURCES}
    assert [folder for folder in folders if f"{folder}/__init__.py" not in SOURCES] == []
