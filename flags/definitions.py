"""Flags made from the options of pipeline.config, so that every field is a flag of the same name."""
import dataclasses
from collections.abc import Sequence
from typing import Any, cast

from absl import flags

from pipeline import config
from pipeline.errors import unknown_name
from pipeline.paths import local_path


def offered_options(groups: Sequence[str] = (), only: Sequence[str] = ()) -> dict[str, dataclasses.Field]:
    """Returns {option name: field} of whole groups and of single options, in the order of pipeline.config.

    Args:
      groups: names of groups of pipeline.config ("data", "model", ...).
      only: names of single options.

    Raises:
      UsageError: a group or an option that does not exist.
    """
    known = config.options()
    for what, names, existing in (("group of options", groups, config.GROUPS), ("option", only, known)):
        for name in names:
            if name not in existing:
                raise unknown_name(what, name, existing)
    wanted = {field.name for group in groups for field in dataclasses.fields(config.GROUPS[group])} | set(only)
    return {name: field for name, field in known.items() if name in wanted}


def define_options(flag_values: flags.FlagValues, groups: Sequence[str] = (), only: Sequence[str] = (),
                   without: Sequence[str] = ()) -> None:
    """Defines the flags of the groups and of the single options for one command, `without` some of them."""
    for name, field in offered_options(groups, only).items():
        if name in without:
            continue
        kind, meta, default = config.value_type(field), field.metadata, cast(Any, field.default)
        if kind is tuple:
            flags.DEFINE_list(name, list(default), meta["help"], flag_values=flag_values)
        elif kind is bool:
            flags.DEFINE_boolean(name, default, meta["help"], flag_values=flag_values)
        elif isinstance(meta["choices"], tuple):
            flags.DEFINE_enum(name, default, list(meta["choices"]), meta["help"], flag_values=flag_values)
        else:
            # No bounds here: pipeline.config checks the range, with the same words on the command line and in Python.
            define: Any = {str: flags.DEFINE_string, int: flags.DEFINE_integer, float: flags.DEFINE_float}[kind]
            define(name, default, meta["help"], flag_values=flag_values)
        cast(Any, flag_values[name]).is_option = True  # A command may have a flag of its own of that name.


def is_option(flag_values: flags.FlagValues, name: str) -> bool:
    """Tells whether a flag of a command is an option of pipeline.config."""
    return name in flag_values and getattr(flag_values[name], "is_option", False)


class PathParser(flags.ArgumentParser):
    """Reads the path of a file or folder, see pipeline.paths.local_path."""

    def __init__(self, name: str):
        """Args: name: of the flag."""
        self._name = name

    def parse(self, argument: str) -> str:
        """Returns the path; raises UsageError for what is not a local path."""
        return local_path(argument, f"--{self._name}")


def define_path(name: str, default: str | None, help: str, flag_values: flags.FlagValues) -> None:
    """Defines a flag of one command that takes a path."""
    flags.DEFINE(PathParser(name), name, default, help, flag_values=flag_values, serializer=flags.ArgumentSerializer())


def define_paths(name: str, help: str, flag_values: flags.FlagValues) -> None:
    """Defines a flag of one command that takes a path and may be repeated; by default empty."""
    flags.DEFINE_multi(PathParser(name), flags.ArgumentSerializer(), name, [], help, flag_values=flag_values)
