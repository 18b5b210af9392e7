"""The text of --help: the flags of a command in groups, each with meaning, unit, range and default."""
import dataclasses
import os
import textwrap

from absl import flags

import recipes
from flags.defaults import RECIPES, dataset_defaults
from flags.definitions import is_option
from flags.parsing import shorthands
from pipeline import config
from pipeline.options import describe_range

NARROWEST, WIDEST = 60, 100
TITLES = {"data": "Data", "model": "Model", "optimizer": "Optimizer", "training": "Training", "runtime": "Runtime"}
VALUES = {"string": "TEXT", "int": "N", "float": "X", "string enum": "NAME",
          "comma separated list of strings": "A,B"}
INDENT = 28
NO_BREAK = "\u00a0"


def terminal_width() -> int:
    """Returns the columns of $COLUMNS or of the terminal, else 80; at least 60, at most 100."""
    try:
        columns = int(os.environ.get("COLUMNS", 0)) or os.get_terminal_size(1).columns
    except (ValueError, OSError):
        columns = 0
    return max(NARROWEST, min(columns or 80, WIDEST))


def command_help(command: str, summary: str, flag_values: flags.FlagValues, width: int | None = None,
                 takes: str | None = None) -> str:
    """Returns the text of `mirrorline COMMAND --help`.

    Args:
      command: its name.
      summary: one sentence.
      flag_values: with the flags of the command defined.
      width: most columns of a line; None: terminal_width().
      takes: see parse.
    """
    width = width or terminal_width()
    files = f" {takes} ..." if takes else ""
    blocks = [f"Usage: mirrorline {command} [--flag=value ...]{files}", textwrap.fill(_sentence(summary), width)]
    if "dataset" in flag_values:
        blocks.append(textwrap.fill(_about_defaults(flag_values), width, break_on_hyphens=False))
    options = config.options()
    own = [name for name in flag_values if not is_option(flag_values, name)]
    sections = [(f"Of {command} alone", own)] + [
        (TITLES[group], [f.name for f in dataclasses.fields(fields) if is_option(flag_values, f.name)])
        for group, fields in config.GROUPS.items()]
    for title, names in sections:
        if names:
            known = {name: options[name] for name in names if is_option(flag_values, name)}
            blocks.append("\n".join([title, *(_entry(flag_values[name], known.get(name), width) for name in names)]))
    blocks.append("\n".join(["General", *(_row(name, text, width) for name, text in _general_rows(flag_values))]))
    return "\n\n".join(blocks)


def _about_defaults(flag_values):
    parts = []
    for dataset, recipe in RECIPES.items():
        shown = " ".join(f"--{name}={_text(value)}" for name, value in dataset_defaults(dataset).items()
                         if name in flag_values)
        parts.append(f"--dataset={dataset} brings its own defaults (recipe {recipe}): {shown}. "
                     "A flag that is given overrides them, on the command line or in a flag file.")
    return " ".join(parts)


def _general_rows(flag_values):
    same = [(f"--{name}", f"the same as {flag}") for name, flag in shorthands(flag_values).items()]
    return [*same,
            ("--recipe=NAME", "the flags of an installed recipe, over which all others win; 'mirrorline recipes' shows "
                              f"them: {', '.join(name.removesuffix(recipes.SUFFIX) for name in recipes.names())}"),
            ("--flagfile=FILE", "read flags from a file, one a line, # for comments; a name that is no file here is "
                                "looked up among the recipes"),
            ("--help", "print this and exit")]


def _entry(flag, option, width):
    meta, choices = option.metadata if option else {}, "|".join(getattr(flag.parser, "enum_values", ()))
    meaning = flag.help.removeprefix(f"<{choices}>: ")  # absl puts an enum's values in front
    span = describe_range(meta) if option else choices
    span = span if "|" in span else span.replace(" ", NO_BREAK)  # No line break in "> 0".
    bracket = "; ".join(part for part in (meta.get("unit", ""), span, _default(flag)) if part)
    name = f"--[no]{flag.name}" if flag.boolean else f"--{flag.name}={VALUES.get(flag.flag_type(), 'VALUE')}"
    return _row(name, f"{meaning} ({bracket})" if bracket else meaning, width)


def _default(flag):
    """Returns the default in words; "" where the help text has it already, since it depends on something else."""
    if flag.default is None or flag.default == []:
        return "" if "default" in flag.help else "default none"
    return f"default {_text(flag.default)}"


def _text(value):
    if isinstance(value, bool):
        return "on" if value else "off"
    if isinstance(value, (list, tuple)):
        return ",".join(value)
    return f"{value:.10g}" if isinstance(value, float) else str(value)


def _row(name, text, width):
    wrapped = textwrap.wrap(text, width - INDENT, break_on_hyphens=False)
    lines = [line.replace(NO_BREAK, " ") for line in wrapped]
    head = f"  {name}"
    if len(head) + 2 > INDENT:
        return "\n".join([head, *(" " * INDENT + line for line in lines)])
    return "\n".join([head.ljust(INDENT) + lines[0], *(" " * INDENT + line for line in lines[1:])])


def _sentence(text):
    return text[:1].upper() + text[1:].rstrip(".") + "."
