"""Tables of names, one for each kind of thing that a flag chooses by name: the built-in ones and those of users.

Standard library only, so that `--help` can list them.
"""
import dataclasses
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from pipeline import extension
from pipeline.errors import UsageError, unknown_name
from pipeline.registration import at, enter, place_of_caller


@dataclasses.dataclass(frozen=True)
class RegistryEntry:
    """What a user registered under a name.

    Attributes:
      origin: the function or class.
      place: (file, line) of its registration.
      options: {name: value} of what was said about it.
    """

    origin: Callable
    place: tuple
    options: dict = dataclasses.field(default_factory=dict)


class Registry(Mapping):
    """One table of names.

    Attributes:
      kind: what a name stands for, in messages: "model", "data set".
      registered: {name: entry} of users.
    """

    def __init__(self, kind: str, built_in: Mapping[str, Any]):
        """
        Args:
          kind: see above.
          built_in: {name: row}; rows may be of any type that the table's owner understands.
        """
        self.kind, self._built_in = kind, built_in
        self.registered: dict[str, RegistryEntry] = {}

    def __getitem__(self, name: str):
        return self.registered[name] if name in self.registered else self._built_in[name]

    def __iter__(self) -> Iterator[str]:
        yield from self._built_in
        yield from self.registered

    def __len__(self) -> int:
        return len(self._built_in) + len(self.registered)

    def find(self, name: str, what: str | None = None):
        """Returns the row of a name; raises UsageError that names the nearest one for a name that is in no table.

        What installed packages offer is imported only for a name that is not here. `what` is what the message calls it,
        such as "--optimizer"; default its kind.
        """
        if name not in self:
            extension.load_entry_points()
        if name not in self:
            raise unknown_name(what or self.kind, name, tuple(self), "; --extension=FILE.py adds your own")
        return self[name]

    def register(self, name: str, check: Callable = lambda origin: None, **options):
        """Returns a decorator that enters a function or class of a user's.

        Args:
          name: letters, digits, `_`, `.` and `-`.
          check: called with what is decorated; returns what is wrong with it in words, or None.
          **options: of the entry.

        Raises:
          UsageError: a name that cannot be, is taken or built in, or what `check` finds.
        """
        place = place_of_caller(2)

        def enter_origin(origin):
            wrong = check(origin)
            if wrong:
                raise UsageError(f"{at(place)}: {self.kind} '{name}' {wrong}")
            enter(self.registered, self.kind, name, RegistryEntry(origin, place, options), self._built_in)
            return origin

        return enter_origin
