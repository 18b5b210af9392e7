"""Flags made from the options of pipeline.config, so that every field is a flag of the same name."""
import dataclasses

from absl import flags

from pipeline import config
from pipeline.errors import unknown_name
from pipeline.paths import local_path


def offered_options(groups=(), only=()):
    """Returns {option name: dataclasses.Field}: those of whole groups and the single ones, in the order of config.

    Args:
      groups: names of groups of pipeline.config ("data", "model", ...).
      only: names of single options.

    Raises:
      UsageError: a group or an option that does not exist.
    """
    for group in groups:
        if group not in config.GROUPS:
            raise unknown_name("group of options", group, config.GROUPS)
    known = config.options()
    for name in only:
        if name not in known:
            raise unknown_name("option", name, known)
    wanted = {field.name for group in groups for field in dataclasses.fields(config.GROUPS[group])} | set(only)
    return {name: field for name, field in known.items() if name in wanted}


def define_options(flag_values, groups=(), only=()):
    """Defines the flags of the groups and of the single options in `flag_values`, an absl FlagValues of one command.

    An option without a value (None) stays None where the flag is not given: absl's own conversion does not touch it.
    """
    for name, field in offered_options(groups, only).items():
        _define(name, field, flag_values)


def _define(name, field, flag_values):
    kind, default, meta = config.value_type(field), field.default, field.metadata
    if kind is tuple:
        flags.DEFINE_list(name, list(default), meta["help"], flag_values=flag_values)
    elif kind is bool:
        flags.DEFINE_boolean(name, default, meta["help"], flag_values=flag_values)
    elif meta["choices"]:
        flags.DEFINE_enum(name, default, list(meta["choices"]), meta["help"], flag_values=flag_values)
    else:
        # No bounds here: pipeline.config checks the range, with the same words for every way in.
        define = {str: flags.DEFINE_string, int: flags.DEFINE_integer, float: flags.DEFINE_float}[kind]
        define(name, default, meta["help"], flag_values=flag_values)


class PathParser(flags.ArgumentParser):
    """Reads the path of a file or folder, see pipeline.paths.local_path."""

    def __init__(self, name):
        """Args: name: of the flag."""
        self._name = name

    def parse(self, argument):
        """Returns the path; raises UsageError for what is none."""
        return local_path(argument, f"--{self._name}")


def define_path(name, default, help, flag_values):
    """Defines a flag of one command alone that takes a path."""
    flags.DEFINE(PathParser(name), name, default, help, flag_values=flag_values, serializer=flags.ArgumentSerializer())


def define_paths(name, help, flag_values):
    """Defines a flag of one command alone that takes paths, each time one; by default none."""
    flags.DEFINE_multi(PathParser(name), flags.ArgumentSerializer(), name, [], help, flag_values=flag_values)
