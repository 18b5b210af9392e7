"""A user's own models and data sets: files and modules that register them, loaded once a process.

What is loaded is known again by its contents: a run keeps the SHA-256 of the files of its extensions, so that going on
with changed code is noticed. Standard library only; the tables of names are in models/registry.py and data/registry.py.
"""
import dataclasses
import hashlib
import importlib
import importlib.metadata
import importlib.util
import os
import re
import sys
import types
import typing

from pipeline.errors import UsageError
from pipeline.paths import local_path
from pipeline.registration import INSTALLED, is_below, raise_with_location

GROUP = "mirrorline.extensions"  # Of entry points: an installed package offers its module there.
FILE, MODULE, ENTRY_POINT = "file", "module", "entry point"


@dataclasses.dataclass(frozen=True, eq=False)
class Extension:
    """One that is loaded.

    Attributes:
      kind: FILE, MODULE or ENTRY_POINT.
      name: absolute path of the file, or name of the module.
      root: folder whose modules are its parts.
      files: {path below the root: SHA-256} of it and of its parts.
    """

    kind: str
    name: str
    root: str
    files: dict

    def collect(self):
        """Adds the parts that were imported since it was asked last; those that are no files are left out."""
        for name, module in list(sys.modules.items()):
            path = _file_of(module)
            part = os.path.relpath(path, self.root)
            alone = os.path.basename(self.root) in INSTALLED
            if path.endswith(".py") and is_below(path, self.root) and not alone and part not in self.files and (
                    name != "__main__"):
                self.files[part] = digest(path)
        return self


_loaded: dict[str, typing.Any] = {}  # By name, in the order of loading.
_unusable: dict[str, str] = {}  # Entry points that could not be loaded: why.


def is_file(name):
    """Tells whether a name of --extension is that of a file, not of a module."""
    return name.endswith(".py") or os.sep in name


def absolute(names):
    """Returns names of --extension with files as absolute paths; looks at them, but runs nothing.

    Raises:
      UsageError: a file that is not there or is no Python, or what is neither a file nor the name of a module.
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


def load(names, records=()):
    """Imports what --extension names, each once a process.

    To be called after the devices are chosen: a file may compute with TensorFlow as it is imported.

    Args:
      names: tuple of str, see `absolute`.
      records: what config.json of a run keeps of its extensions, see `records`: where they have changed since, a line
        on standard error says so.

    Raises:
      UsageError: one that cannot be imported; names file and line.
    """
    for name in absolute(names):
        if name not in _loaded:
            _loaded[name] = _load_file(name) if is_file(name) else _load_module(MODULE, name)
    for _, old, new in changes(records, names):
        print(f"the code of this run's model or data has changed since it was trained: {old}, now {new}",
              file=sys.stderr)


def is_offered():
    """Tells whether an installed package offers an extension; imports nothing."""
    return any(True for _ in importlib.metadata.entry_points(group=GROUP))


def load_entry_points():
    """Imports what installed packages offer, once a process; one that cannot be is named, and the others go on."""
    for point in importlib.metadata.entry_points(group=GROUP):
        if point.module in _loaded or point.value in _unusable:
            continue
        try:
            _loaded[point.module] = _load_module(ENTRY_POINT, point.module, point.load if point.attr else None)
        except UsageError as error:
            _unusable[point.value] = str(error)
            origin = f" of {point.dist.name} {point.dist.version}" if point.dist else ""
            print(f"the extension '{point.name}'{origin} is left out: {error}", file=sys.stderr)


def records():
    """Returns what config.json keeps of the extensions that are loaded, as JSON."""
    return [{**dataclasses.asdict(extension.collect()), "files": dict(sorted(extension.files.items()))}
            for extension in _loaded.values()]


def digests(names):
    """Returns {file name or module: SHA-256 of its file} of names of --extension, without loading them."""
    return {os.path.basename(name): digest(name if is_file(name) else _origin(name)) for name in names}


def changes(records, names):
    """Compares the extensions of a run with those of now, without loading them.

    Args:
      records: of config.json, see `records`; None or [] for a run without.
      names: those of --extension of now; a file may have moved, it is known by its name.

    Returns:
      [("extension", how it was, how it is)], [] where nothing has changed.
    """
    here, old, new = {os.path.basename(name): name for name in names if is_file(name)}, [], []
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


def digest(path):
    """Returns the SHA-256 of a file's bytes as hex, "" where there is none."""
    try:
        with open(path or "", "rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError:
        return ""


def _compile(path):
    """Returns (code, SHA-256) of a Python file; raises UsageError where there is none."""
    if os.path.isdir(path):
        raise UsageError(f"--extension={path} is a folder: give a Python file, or the name of an installed package")
    try:
        with open(path, "rb") as file:
            source = file.read()
    except OSError as error:
        raise UsageError(f"--extension={path}: {(error.strerror or str(error)).lower()}; where it has moved, give its "
                         "new place") from error
    try:
        # Not by way of __pycache__: what is hashed is what runs.
        return compile(source, path, "exec", dont_inherit=True), hashlib.sha256(source).hexdigest()
    except (SyntaxError, ValueError) as error:
        line = f", line {error.lineno}" if getattr(error, "lineno", None) else ""
        raise UsageError(f"--extension={path}{line}: {getattr(error, 'msg', None) or error}") from error


def _load_file(path):
    """Runs a file as the module of its name, unless this process has imported it; returns the Extension."""
    code, checksum = _compile(path)
    root, name = os.path.dirname(os.path.realpath(path)), os.path.splitext(os.path.basename(path))[0]
    extension = Extension(FILE, path, root, {os.path.basename(os.path.realpath(path)): checksum})
    if os.path.realpath(path) in map(_file_of, list(sys.modules.values())):
        return extension.collect()
    if name in sys.modules or not name.isidentifier() or importlib.util.find_spec(name):
        name = f"extension_{name}"  # Of another one by that name it must not take the place.
    module = types.ModuleType(name)
    module.__file__, sys.modules[name] = path, module
    if root not in sys.path:
        sys.path.append(root)  # Its neighbours may be imported as from a script; they hide nothing.
    try:
        with raise_with_location("--extension", (path, 1)):
            exec(code, module.__dict__)
    except BaseException:
        del sys.modules[name]
        raise
    return extension.collect()


def _load_module(kind, name, function=None):
    """Imports a module; returns the Extension. `function` returns what is called after it."""
    with raise_with_location(f"--extension={name}" if kind == MODULE else name, (_origin(name) or name, 1)):
        importlib.import_module(name)
        if function:
            function()()
    origin, root = os.path.realpath(_origin(name)), _root(name)
    return Extension(kind, name, root, {os.path.relpath(origin, root): digest(origin)}).collect()


def _file_of(module):
    """Returns the path of a module's file, "/" of one without."""
    return os.path.realpath(getattr(module, "__file__", None) or os.sep)


def _origin(name):
    """Returns the path of a module's file, "" where there is none."""
    try:
        spec = importlib.util.find_spec(name)
    except (ImportError, ValueError):
        return ""
    return spec.origin if spec and spec.origin and os.path.isfile(spec.origin) else ""


def _root(name):
    """Returns the folder of the package that a module is of, of a module alone that of its file, "" without any."""
    origin = _origin(name.split(".")[0]) or _origin(name)
    return os.path.dirname(os.path.realpath(origin)) if origin else ""
