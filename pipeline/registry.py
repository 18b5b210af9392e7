"""Tables of the names that flags choose from: built-in ones and those that users register.

Standard library only, so that `--help` can list them.
"""
import dataclasses
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from pipeline import extension
from pipeline.errors import UsageError, unknown_name
from pipeline.registration import Location, caller_location, enter, format_location


@dataclasses.dataclass(frozen=True)
class RegistryEntry:
    """What a user registered under a name.

    Attributes:
      origin: the function or class.
      location: (file, line) of its registration.
      options: {name: value} given with it.
    """

    origin: Callable
    location: Location
    options: dict[str, Any] = dataclasses.field(default_factory=dict)


class Registry(Mapping):
    """One table of names.

    Attributes:
      kind: what a name stands for, for messages ("loss").
      registered: {name: entry} of users.
    """

    def __init__(self, kind: str, built_in: Mapping[str, Any]):
        """Args: built_in: {name: row}; rows of any type."""
        self.kind, self._built_in = kind, built_in
        self.registered: dict[str, RegistryEntry] = {}

    def __getitem__(self, name: str) -> Any:
        return self.registered[name] if name in self.registered else self._built_in[name]

    def __iter__(self) -> Iterator[str]:
        yield from self._built_in
        yield from self.registered

    def __len__(self) -> int:
        return len(self._built_in) + len(self.registered)

    def find(self, name: str, what: str | None = None) -> Any:
        """Returns the row of a name; raises UsageError with the nearest name for an unknown one.

        Extensions of installed packages are imported only for a name that is not here. `what` is used in the message,
        such as "--optimizer"; default the kind.
        """
        if name not in self:
            extension.load_entry_points()
        if name not in self:
            raise unknown_name(what or self.kind, name, tuple(self), "; --extension=FILE.py adds your own")
        return self[name]

    def register(self, name: str, check: Callable[[Any], str | None] = lambda origin: None, **options: Any) -> Callable:
        """Returns a decorator that registers a user's function or class.

        Args:
          name: letters, digits, `_`, `.` and `-`.
          check: called with the decorated object; returns what is wrong with it, or None.
          **options: of the entry.

        Raises:
          UsageError: an invalid, used or built-in name, or what `check` finds.
        """
        location = caller_location(2)

        def enter_origin(origin):
            wrong = check(origin)
            if wrong:
                raise UsageError(f"{format_location(location)}: {self.kind} '{name}' {wrong}")
            enter(self.registered, self.kind, name, RegistryEntry(origin, location, options), self._built_in)
            return origin

        return enter_origin
