"""Tables of the names that flags choose from: built-in ones and those that users register.

Standard library only, so that `--help` can list them.
"""
import ast
import dataclasses
import importlib
import os
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from pipeline import extension
from pipeline.errors import UsageError, unknown_name
from pipeline.registration import Location, caller_location, enter, format_location


@dataclasses.dataclass(frozen=True)
class RegistryEntry:
    """What stands behind a name.

    Attributes:
      origin: the function or class, or "module:name" of one that is imported when it is used.
      location: (file, line) of its registration; None for what is built in.
      row: its options, of the type that the table's owner declares.
    """

    origin: Callable | str
    location: Location | None = None
    row: Any = None

    def load(self) -> Any:
        """Returns the function or class."""
        if not isinstance(self.origin, str):
            return self.origin
        module, _, name = self.origin.partition(":")
        return getattr(importlib.import_module(module), name)


class Registry(Mapping):
    """One table of names.

    Attributes:
      kind: what a name stands for, for messages ("loss").
      registered: {name: entry} of users.
    """

    def __init__(self, kind: str, built_in: Mapping[str, Any], shown: Callable[[str, Any], str] | None = None):
        """
        Args:
          kind: see above.
          built_in: {name: row}; rows of any type.
          shown: returns how `--help` lists a name and its row; default the name alone.
        """
        self.kind, self._built_in = kind, built_in
        self.registered: dict[str, RegistryEntry] = {}
        self._shown = shown or (lambda name, row: name)

    def __getitem__(self, name: str) -> Any:
        return self.registered[name] if name in self.registered else self._built_in[name]

    def __iter__(self) -> Iterator[str]:
        yield from self._built_in
        yield from self.registered

    def __len__(self) -> int:
        return len(self._built_in) + len(self.registered)

    def shown(self) -> list[str]:
        """Returns what `--help` lists, one text a name."""
        return [self._shown(name, row) for name, row in self.items()]

    def find(self, name: str, what: str | None = None) -> Any:
        """Returns the row of a name; raises UsageError that names the nearest one for a name that is in no table.

        Extensions of installed packages are imported only for a name that is not here. `what` is used in the message,
        such as "--optimizer"; default the kind.
        """
        if name not in self:
            extension.load_entry_points()
        if name not in self:
            raise unknown_name(what or self.kind, name, tuple(self), "; --extension=FILE.py adds your own")
        return self[name]

    def built_in(self, name: str, **options: Any) -> Callable:
        """Returns the decorator with which a file of this package declares an entry, see `declared`."""
        assert name in self._built_in, f"{name} is declared in a folder that is not searched"
        return lambda origin: origin

    def register(self, name: str, check: Callable[[Any], str | None] = lambda origin: None, row: Any = None,
                 depth: int = 2) -> Callable:
        """Returns a decorator that registers a user's function or class.

        Args:
          name: letters, digits, `_`, `.` and `-`.
          check: called with the decorated object; returns what is wrong with it, or None.
          row: options of the entry.
          depth: how many callers up the registration stands.

        Raises:
          UsageError: an invalid, used or built-in name, or what `check` finds.
        """
        location = caller_location(depth)

        def enter_origin(origin):
            wrong = check(origin)
            if wrong:
                raise UsageError(f"{format_location(location)}: {self.kind} '{name}' {wrong}")
            enter(self.registered, self.kind, name, RegistryEntry(origin, location, row), self._built_in)
            return origin

        return enter_origin


def declared(folder: str, table: str, row: Callable[..., Any]) -> dict[str, RegistryEntry]:
    """Reads what the files of a folder of this package declare with `@TABLE.built_in("name", option=value, ...)`.

    The files are read, not run: they import TensorFlow, which `--help` does not wait for. So options are literals.

    Args:
      folder: path below pipeline/, such as "data/augment".
      table: name of the table in the files, such as "AUGMENTATIONS".
      row: makes the row of an entry from its options.
    """
    found, path = {}, os.path.join(os.path.dirname(__file__), folder)
    for file in sorted(file for file in os.listdir(path) if file.endswith(".py")):
        with open(os.path.join(path, file), encoding="utf-8") as opened:
            text = opened.read()
        module = f"pipeline.{folder.replace('/', '.')}.{file.removesuffix('.py')}"
        for node in ast.parse(text).body if f"@{table}.built_in(" in text else ():
            if not isinstance(node, (ast.FunctionDef, ast.ClassDef)):
                continue
            for call in node.decorator_list:
                if isinstance(call, ast.Call) and ast.unparse(call.func) == f"{table}.built_in":
                    options = {str(word.arg): ast.literal_eval(word.value) for word in call.keywords}
                    found[ast.literal_eval(call.args[0])] = RegistryEntry(f"{module}:{node.name}", None, row(**options))
    return found
