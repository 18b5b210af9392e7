"""A user's own extensions: files and modules that register models, data sets and more, loaded once per process.

They are identified by their content: a run stores the SHA-256 of the files of its extensions, so that continuing with
changed code is noticed. Standard library only.
"""
import dataclasses
import functools
import hashlib
import importlib
import importlib.metadata
import importlib.util
import os
import re
import sys
import types
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from pipeline.console import STANDARD
from pipeline.errors import UsageError
from pipeline.paths import local_path
from pipeline.registration import INSTALLED, is_below, raise_with_location

GROUP = "mirrorline.extensions"  # Of entry points, by which an installed package offers its module.
FILE, MODULE, ENTRY_POINT = "file", "module", "entry point"


@dataclasses.dataclass(frozen=True, eq=False)
class Extension:
    """A loaded extension.

    Attributes:
      kind: FILE, MODULE or ENTRY_POINT.
      name: absolute path of the file, or name of the module.
      root: folder whose modules are its parts.
      files: {path below the root: SHA-256} of it and of its parts.
    """

    kind: str
    name: str
    root: str
    files: dict[str, str]

    def collect(self) -> "Extension":
        """Adds the parts that were imported since the last call; parts without a file are left out."""
        alone, inside = os.path.basename(self.root) in INSTALLED, os.path.join(self.root, "")
        for name, module in list(sys.modules.items()):
            path = _file_of(module)
            # Few of thousands of modules pass the first of these.
            if not path.startswith(inside) or not path.endswith(".py") or alone or name == "__main__":
                continue
            part = os.path.relpath(path, self.root)
            if part not in self.files and is_below(path, self.root):
                self.files[part] = digest(path)
        return self


_loaded: dict[str, Extension] = {}  # By name, in the order of loading.
_unusable: dict[str, str] = {}  # Entry points that could not be loaded, with the reason.


def is_file(name: str) -> bool:
    """Tells whether a name of --extension is that of a file, not of a module."""
    return name.endswith(".py") or os.sep in name


def absolute(names: Iterable[str]) -> tuple[str, ...]:
    """Returns names of --extension with absolute paths of files; compiles but does not run them.

    Raises:
      UsageError: a missing file or one that is not Python, or neither a file nor the name of a module.
    """
    found = []
    for name in names:
        if is_file(name):
            name = os.path.abspath(local_path(name, "--extension"))
            _compile(name)
        elif not re.fullmatch(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)*", name):
            raise UsageError(f"--extension={name}: give a Python file, such as my_models.py, or the name of a module")
        elif name.split(".")[0] not in sys.modules and importlib.util.find_spec(name.split(".")[0]) is None:
            near = f"; there is a file {name}.py: give it with its ending" if os.path.isfile(f"{name}.py") else ""
            raise UsageError(f"--extension={name}: there is no module of that name{near}")
        found.append(name)
    return tuple(dict.fromkeys(found))


def load(names: Iterable[str], records: Iterable[Mapping[str, Any]] = ()) -> None:
    """Imports extensions, each once per process.

    To be called after the devices are chosen: a file may compute with TensorFlow when it is imported.

    Args:
      names: of --extension, see `absolute`.
      records: of a run's config.json, see `records`: a warning reports what has changed since.

    Raises:
      UsageError: one that cannot be imported; names file and line.
    """
    names = absolute(names)
    for name in names:
        if name not in _loaded:
            _loaded[name] = _load_file(name) if is_file(name) else _load_module(MODULE, name)
    for _, old, new in changes(records, names):
        STANDARD.warning(f"the code of this run's model or data has changed since it was trained: {old}, now {new}")


def is_offered() -> bool:
    """Tells whether an installed package offers an extension; imports nothing."""
    return any(True for _ in importlib.metadata.entry_points(group=GROUP))


def load_entry_points() -> None:
    """Imports what installed packages offer, once per process; warns of those that cannot be imported."""
    for point in importlib.metadata.entry_points(group=GROUP):
        if point.module in _loaded or point.value in _unusable:
            continue
        try:
            _loaded[point.module] = _load_module(ENTRY_POINT, point.module, point.load if point.attr else None)
        except UsageError as error:
            _unusable[point.value] = str(error)
            origin = f" of {point.dist.name} {point.dist.version}" if point.dist else ""
            STANDARD.warning(f"the extension '{point.name}'{origin} is left out: {error}")


def records() -> list[dict[str, Any]]:
    """Returns what config.json stores of the loaded extensions, as JSON."""
    return [{**dataclasses.asdict(extension.collect()), "files": dict(sorted(extension.files.items()))}
            for extension in _loaded.values()]


def digests(names: Iterable[str]) -> dict[str, str]:
    """Returns {file name or module: SHA-256 of its file} for names of --extension, without loading them."""
    return {os.path.basename(name): digest(name if is_file(name) else _origin(name)) for name in names}


def changes(records: Iterable[Mapping[str, Any]] | None, names: Sequence[str]) -> list[tuple[str, str, str]]:
    """Compares the extensions of a run with the present ones, without loading them.

    Args:
      records: of config.json, see `records`; None or empty for a run without extensions.
      names: of --extension now; a file may have moved, it is identified by its name.

    Returns:
      [("extension", before, now)], [] without a change.
    """
    here = {os.path.basename(name): name for name in names if is_file(name)}
    old, new = [], []
    for record in records or ():
        label = os.path.basename(record["name"])
        root = _root(record["name"]) if record["kind"] != FILE else (
            os.path.dirname(os.path.realpath(here[label])) if label in here else "")
        for file, before in record["files"].items() if root else [(label, "")]:
            now = digest(os.path.join(root, file)) if root else ""
            if not root or now != before:
                old.append(f"{file} {before[:12]}".strip())
                new.append(f"{file} {now[:12]}" if now else f"{file} missing" if root else f"without {file}")
    return [("extension", ", ".join(old), ", ".join(new))] if old else []


def digest(path: str) -> str:
    """Returns the SHA-256 of a file as hex, "" without a file."""
    try:
        with open(path or "", "rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError:
        return ""


def _compile(path: str) -> tuple[types.CodeType, str]:
    """Returns (code, SHA-256) of a Python file; raises UsageError if it cannot be compiled."""
    if os.path.isdir(path):
        raise UsageError(f"--extension={path} is a folder: give a Python file, or the name of an installed package")
    try:
        with open(path, "rb") as file:
            source = file.read()
    except OSError as error:
        raise UsageError(f"--extension={path}: {(error.strerror or str(error)).lower()}; where it has moved, give its "
                         "new place") from error
    try:
        # Not through __pycache__: what is hashed is what runs.
        return compile(source, path, "exec", dont_inherit=True), hashlib.sha256(source).hexdigest()
    except (SyntaxError, ValueError) as error:
        line = f", line {error.lineno}" if isinstance(error, SyntaxError) and error.lineno else ""
        raise UsageError(f"--extension={path}{line}: {getattr(error, 'msg', None) or error}") from error


def _load_file(path: str) -> Extension:
    """Runs a file as the module of its name, unless this process has imported it."""
    code, checksum = _compile(path)
    root, name = os.path.dirname(os.path.realpath(path)), os.path.splitext(os.path.basename(path))[0]
    extension = Extension(FILE, path, root, {os.path.basename(os.path.realpath(path)): checksum})
    if os.path.realpath(path) in map(_file_of, list(sys.modules.values())):
        return extension.collect()
    if name in sys.modules or not name.isidentifier() or importlib.util.find_spec(name):
        name = f"extension_{name}"  # The name belongs to another module.
    module = types.ModuleType(name)
    module.__file__, sys.modules[name] = path, module
    if root not in sys.path:
        sys.path.append(root)  # Its neighbours can be imported as from a script; at the end they hide nothing.
    try:
        with raise_with_location("--extension", (path, 1)):
            exec(code, module.__dict__)
    except BaseException:
        del sys.modules[name]
        raise
    return extension.collect()


def _load_module(kind: str, name: str, load_function: Callable[[], Callable[[], Any]] | None = None) -> Extension:
    """Imports a module, and calls the function that `load_function` returns."""
    with raise_with_location(f"--extension={name}" if kind == MODULE else name, (_origin(name) or name, 1)):
        importlib.import_module(name)
        if load_function:
            load_function()()
    origin, root = os.path.realpath(_origin(name)), _root(name)
    return Extension(kind, name, root, {os.path.relpath(origin, root): digest(origin)}).collect()


def _file_of(module: types.ModuleType) -> str:
    """Returns the path of a module's file, "/" without one."""
    return _real(getattr(module, "__file__", None) or os.sep)


@functools.cache
def _real(path: str) -> str:
    """Returns the path without links that a module was imported from; there are thousands of them, and they stay."""
    return os.path.realpath(path)


def _origin(name: str) -> str:
    """Returns the path of a module's file by its name, "" without one."""
    try:
        spec = importlib.util.find_spec(name)
    except (ImportError, ValueError):
        return ""
    return spec.origin if spec and spec.origin and os.path.isfile(spec.origin) else ""


def _root(name: str) -> str:
    """Returns the folder of a module's package, or of its file; "" without any."""
    origin = _origin(name.split(".")[0]) or _origin(name)
    return os.path.dirname(os.path.realpath(origin)) if origin else ""
