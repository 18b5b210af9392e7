"""From the arguments of a command to flag values; every error is one line."""
import os
import re
from collections.abc import Sequence

from absl import flags

import recipes
from flags.definitions import is_option
from pipeline import config
from pipeline.errors import UsageError, nearest, unknown_name
from pipeline.files import read_text
from pipeline.options import describe_range
from pipeline.paths import local_path

# Names that other trainers use; their spelling does not lead to ours.
OTHER_NAMES = {"lr": "learning_rate", "base_lr": "learning_rate", "wd": "weight_decay", "bs": "batch_size",
               "b": "batch_size", "opt": "optimizer", "sched": "schedule", "gpus": "devices", "num_gpus": "replicas",
               "amp": "precision", "dtype": "precision", "fp16": "precision", "model_dir": "workdir",
               "output": "workdir", "output_dir": "workdir", "log_dir": "workdir", "logdir": "workdir",
               "train_steps": "steps", "train_epochs": "epochs", "max_steps": "steps", "clip_grad": "clip_norm",
               "grad_accum_steps": "accumulate_steps", "smoothing": "label_smoothing", "mixup": "augment",
               "cutmix": "augment", "sync_bn": "sync_batch_norm", "config": "flagfile", "resume": "workdir"}
# {flag: (the flag that it stands for, its value)}.
SHORTHANDS = {"quiet": ("verbosity", "quiet")}
# Those of one command, where the same words are options of others.
OF_COMMANDS = {"learning_rate": ("find", "learning_rate"), "batch_size": ("find", "batch_size"),
               "batch_size=auto": ("auto_batch_size", "true")}
# Options that set the same thing in two ways: one that the user gives replaces the other one of a recipe.
EXCLUSIVE = (("epochs", "steps"), ("learning_rate", "base_learning_rate"), ("clip", "clip_norm"),
             ("image_size", "image_sizes"))
KINDS = {"int": "a whole number", "float": "a number", "bool": "true or false"}


def parse(arguments: Sequence[str], flag_values: flags.FlagValues, command: str = "COMMAND",
          takes: str | None = None) -> list[str]:
    """Parses the arguments of one command into `flag_values`.

    `--flagfile=FILE`, as in absl: a flag on each line, # for comments; it takes effect at its position, and the last
    value wins. A file that does not exist here is looked up among the installed recipes. `--recipe=NAME` stands for the
    flags of an installed recipe, over which all others win.

    Args:
      arguments: without the name of program and command.
      flag_values: with the command's flags defined; never the global one.
      command: its name, for messages.
      takes: the name of positional arguments in the help ("FILE"); None for a command without them.

    Returns:
      The positional arguments.

    Raises:
      UsageError: an unknown flag, a value of the wrong type, a stray argument, a flag file that cannot be read.
    """
    flag_values.set_gnu_getopt(True)
    try:
        rest = flag_values([command, *_with_recipes(_written_out(_with_flag_files(arguments), flag_values))])[1:]
    except flags.UnrecognizedFlagError as error:
        raise _unknown_flag(error.flagname, flag_values, command) from None
    except flags.IllegalFlagValueError as error:
        raise _wrong_value(error, flag_values) from None
    except (flags.Error, ValueError) as error:
        missing = re.fullmatch(r"Missing value for flag (\S+)", str(error))
        raise UsageError(f"{missing[1]} needs a value" if missing else str(error)) from None
    if rest and not takes:
        raise _stray_argument(rest[0], flag_values, command)
    return rest


def _with_flag_files(arguments, reading=()):
    """Returns the arguments with each --flagfile, up to `--`, replaced by the flags in it.

    Args:
      arguments: list of str.
      reading: real paths of the flag files that contain these arguments.
    """
    found, waiting = [], iter(arguments)
    for argument in waiting:
        name, equals, value = argument.partition("=")
        if name not in ("--flagfile", "-flagfile"):
            found.append(argument)
            if argument == "--":
                return [*found, *waiting]
            continue
        if not equals:
            value = next(waiting, "")
        if not value:
            raise UsageError(f"--flagfile needs the name of a file; recipes: {', '.join(recipes.names())}")
        value = local_path(value, "--flagfile")
        path = recipes.find(value) or value
        real = os.path.realpath(path)
        if real in reading:
            raise UsageError(f"--flagfile={value} includes itself; remove one of them")
        found += _with_flag_files(_flags_in(path), (*reading, real))
    return found


def _with_recipes(arguments):
    """Returns the arguments with the flags of each --recipe, up to `--`, in front of all others."""
    found, rest, waiting = [], [], iter(arguments)
    for argument in waiting:
        name, equals, value = argument.partition("=")
        if name in ("--recipe", "-recipe"):
            found += _with_flag_files(_flags_in(_recipe(value if equals else next(waiting, ""))))
            continue
        rest.append(argument)
        if argument == "--":
            rest += waiting
    given = {argument.lstrip("-").partition("=")[0] for argument in rest}
    replaced = {f"--{name}" for names in EXCLUSIVE if set(names) & given for name in names}
    return [*(flag for flag in found if flag.partition("=")[0] not in replaced), *rest]


def _recipe(name):
    """Returns the path of an installed recipe."""
    known = [known.removesuffix(recipes.SUFFIX) for known in recipes.names()]
    if name.removesuffix(recipes.SUFFIX) not in known:
        raise unknown_name("--recipe", name, known, "; 'mirrorline recipes' shows what they do")
    return recipes.path(name.removesuffix(recipes.SUFFIX) + recipes.SUFFIX)


def _flags_in(path):
    """Returns the flags in a file, one a line; a quoted value, as in a shell, without its quotes."""
    try:
        text = read_text(path)
    except FileNotFoundError:
        raise UsageError(f"--flagfile={path}: there is no such file; recipes: {', '.join(recipes.names())}") from None
    except UsageError as error:
        raise UsageError(f"--flagfile: {error}; it must have one flag a line") from None
    lines = [line.strip() for line in text.splitlines()]
    return [_unquoted(line) for line in lines if line and not line.startswith(("#", "//"))]


def _unquoted(line):
    match = re.fullmatch(r"(-[^=]*=)(['\"])(.*)\2", line)
    return match[1] + match[3] if match and match[2] not in match[3] else line


def shorthands(flag_values: flags.FlagValues) -> dict[str, str]:
    """Returns {name: "--flag=value" that it stands for} of the shorthands that a command offers."""
    return {name: f"--{flag}={value}" for name, (flag, value) in {**SHORTHANDS, **OF_COMMANDS}.items()
            if flag in flag_values}


def _written_out(arguments, flag_values):
    """Returns the arguments with shorthands replaced, up to `--`, after which there are no flags."""
    end = arguments.index("--") if "--" in arguments else len(arguments)
    longer = {f"{dashes}{name}": flag for name, flag in shorthands(flag_values).items() for dashes in ("-", "--")}
    return [longer.get(argument, argument) for argument in arguments[:end]] + arguments[end:]


def _unknown_flag(name, flag_values, command):
    wanted = name.replace("-", "_")
    negations = [f"no{known}" for known in flag_values if flag_values[known].boolean]
    known = [*flag_values, *negations, *(n for n in shorthands(flag_values) if "=" not in n), "flagfile", "recipe"]
    guess = wanted if wanted in known else OTHER_NAMES.get(wanted.lower())
    guess = guess if guess in known else nearest(wanted, known)
    suggestion = f"did you mean --{guess}? " if guess else ""
    return UsageError(f"unknown flag '--{name}': {suggestion}'mirrorline {command} --help' lists every flag")


def _stray_argument(argument, flag_values, command):
    name = argument.partition("=")[0].replace("-", "_")
    if name in flag_values:
        hint = f"did you mean --{name}{argument[len(name):]}?" if "=" in argument else f"did you mean --{name}=VALUE?"
    else:
        hint = f"'{command}' takes only flags, each --name=value"
    return UsageError(f"unexpected argument '{argument}': {hint}")


def _wrong_value(error, flag_values):
    """Returns the UsageError for absl's `flag --NAME=VALUE: REASON`."""
    match = re.match(r"flag --(\w+)=", str(error))
    if not match or match[1] not in flag_values:
        return UsageError(str(error))
    name, parser = match[1], flag_values[match[1]].parser
    reason = str(error.__context__) if error.__context__ else ""
    value = str(error)[match.end():].removesuffix(f": {reason}")
    if isinstance(parser, flags.EnumParser):
        return unknown_name(f"--{name}", value, parser.enum_values)
    option = config.options().get(name) if is_option(flag_values, name) else None
    span = describe_range(option.metadata) if option else _bounds(parser)
    unit = f" ({option.metadata['unit']})" if option and option.metadata["unit"] else ""
    kind = KINDS.get(parser.flag_type(), parser.syntactic_help or "another value")
    return UsageError(f"--{name} must be {kind}{' ' + span if span else ''}{unit}; found '{value}'")


def _bounds(parser):
    """Returns the range of a flag of one command in words; "" without bounds."""
    bounds = [(sign, getattr(parser, key, None)) for key, sign in (("lower_bound", ">="), ("upper_bound", "<="))]
    return " and ".join(f"{sign} {bound:g}" for sign, bound in bounds if bound is not None)
