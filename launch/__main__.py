"""`mirrorline COMMAND --flag=value`, the same as `python -m launch COMMAND ...`.

A command is a module of launch.commands with

    SUMMARY      one line for the list of commands
    PLACE        its place in that list, ascending
    GROUPS, ONLY the options of pipeline.config it offers, by group or by name
    define(flag_values)       defines flags of its own
    run(config, flag_values)  returns the exit code

and, where it takes files, TAKES_FILES, their name in the help: `run` then also gets the arguments that are not flags.
LAUNCHED is the command that follows with flags of its own after `--`. TensorFlow is imported inside `run`, after the
flags are checked, so that help and a mistyped flag answer at once.
"""
import atexit
import contextlib
import importlib
import os
import pkgutil
import signal
import sys
import traceback
from collections.abc import Sequence
from types import ModuleType

from absl import flags as absl_flags

import flags
from launch import __version__, commands
from pipeline import arithmetic, extension, interruption, silence
from pipeline.data import damage
from pipeline.distributed import peer_failure
from pipeline.errors import RunFailure, UsageError, unknown_name
from pipeline.files import no_room

COMMANDS = tuple(sorted(module.name for module in pkgutil.iter_modules(commands.__path__)))
HELP = ("--help", "-h", "-help", "--helpfull", "--helpshort")
FAILURE, USAGE, PREEMPTED, SIGNAL, BROKEN_PIPE = 1, 2, 75, 128, 128 + 13


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs one command and returns its exit code.

    Args:
      arguments: without the program's name; None: those of the process.

    Returns:
      0 success, 1 failure, 2 wrong use or bad input, 130 interrupted from the keyboard, 143 by SIGTERM, 129 by a lost
      terminal, 138 and 140 by SIGUSR1 and SIGUSR2, 152 by SIGXCPU, 141 the reader of the output has gone, or what the
      command returned. Any other exception is a defect and passes with its traceback.
    """
    silence.open_missing_streams()
    end = _ProcessEnd() if arguments is None else None
    silence.escape_unencodable()
    arguments = sys.argv[1:] if arguments is None else list(arguments)
    try:
        code = _run_reporting_errors(arguments, bool(end))
    except Exception:
        if not peer_failure.is_watching():
            raise
        traceback.print_exc()
        code = FAILURE
    if code not in (0, PREEMPTED) and peer_failure.is_watching():
        _exit(code)  # At the end of a process TensorFlow waits for the other workers, and they for this one.
    if end:
        end.code = code
    return code


class _ProcessEnd:
    """Exits immediately, after all other exit handlers, where the process was interrupted or its pipelines call Python.

    The interpreter waits for TensorFlow's threads at exit, and they for the interpreter: sometimes forever. And it no
    longer handles signals, so that a second Ctrl-C would kill the process.
    """

    def __init__(self) -> None:
        """To be made before TensorFlow is imported: the first registered handler is called last."""
        self.code = FAILURE
        atexit.register(self)

    def __call__(self) -> None:
        if damage.pipelines_call_python() or interruption.is_ending():
            _exit(self.code)


def _exit(code: int) -> None:
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError, ValueError):
            stream.flush()
    os._exit(code)


def _run_reporting_errors(arguments: list[str], ends: bool) -> int:
    """Runs one command and returns its exit code, after reporting its error; see main.

    Args:
      arguments: of the command line.
      ends: whether the process exits afterwards.
    """
    name = f"mirrorline {arguments[0]}" if arguments and arguments[0] in COMMANDS else "mirrorline"
    try:
        with interruption.interruptible(name, ends) as signal_number, damage.in_words():
            try:
                code = _dispatch(arguments)
            except Exception as error:
                number = signal_number()
                if number:  # A library's own error about the interruption.
                    raise interruption.Interrupted(number) from error
                raise
        sys.stdout.flush()
        return code
    except UsageError as error:
        return _fail(name, error, USAGE)
    except RunFailure as error:
        return _fail(name, error, FAILURE)
    except ImportError as error:
        if "tensorflow" not in str(error).lower() and "keras" not in str(error).lower():
            raise
        return _fail(name, f"TensorFlow cannot be loaded ({error}); run 'mirrorline doctor' to see what is missing",
                     FAILURE)
    except KeyboardInterrupt as error:
        return _fail(name, interruption.words(getattr(error, "doing", None)),
                     SIGNAL + getattr(error, "number", signal.SIGINT))
    except BrokenPipeError:
        # The interpreter flushes standard output once more at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        return BROKEN_PIPE
    except OSError as error:
        if not no_room(error):
            raise
        where = f" (writing {error.filename})" if error.filename else ""
        return _fail(name, f"the disk is full{where}: {str(error.strerror).lower()}; what was saved is safe, make room "
                           "and run the same command again", FAILURE)


def _fail(name: str, error: object, code: int) -> int:
    print(f"{name}: {' '.join(str(error).splitlines())}", file=sys.stderr)
    return code


def _dispatch(arguments: list[str]) -> int:
    first, rest = (arguments[0], arguments[1:]) if arguments else ("help", [])
    if first in HELP or (first == "help" and not rest):
        print(_overview())
        return 0
    if first in ("--version", "version"):
        print(f"mirrorline {__version__}")
        return 0
    if first == "help":
        first, rest = rest[0], ["--help"]
    if first.startswith("-"):
        raise UsageError(f"the command comes first, then its flags; found '{first}'; commands: {', '.join(COMMANDS)}")
    if first not in COMMANDS:
        raise unknown_name("command", first, (*COMMANDS, "help", "version"))
    return _run(first, rest)


def _run(name: str, arguments: list[str]) -> int:
    command = _module(name)
    end = arguments.index("--") if "--" in arguments else len(arguments)
    own, rest = arguments[:end], arguments[end + 1:]
    if set(own) & set(HELP):
        _load_extensions(own)  # Before the flags are defined, whose help lists what extensions add.
    flag_values = absl_flags.FlagValues()
    flags.define_options(flag_values, command.GROUPS, getattr(command, "ONLY", ()), getattr(command, "WITHOUT", ()))
    command.define(flag_values)
    takes, launched = getattr(command, "TAKES_FILES", None), getattr(command, "LAUNCHED", None)
    if set(own) & set(HELP):
        print(flags.command_help(name, command.SUMMARY, flag_values, takes=takes))
        return 0
    check_working_directory()
    arithmetic.check_environment()
    if launched:
        if rest[:1] == [launched] and set(rest) & set(HELP):
            return _run(launched, ["--help"])
        command.check_order(own, rest, flag_values)
    files = flags.parse(arguments, flag_values, name, takes)
    if "extension" in flag_values and flag_values.extension:
        # Before TensorFlow is loaded, and so that children and later commands in the directory find the same files.
        flag_values["extension"].value = list(extension.absolute(flag_values.extension))
    config = flags.config_from_flags(flag_values)
    silence.quiet(config.runtime.verbosity)
    return command.run(config, flag_values, *([files] if takes else []))


def check_working_directory() -> None:
    """Raises UsageError if the working directory is gone: relative paths have no meaning then."""
    try:
        os.getcwd()
    except OSError as error:
        raise UsageError(f"the working directory is gone or cannot be read ({str(error.strerror).lower()}): change "
                         "into one that exists, cd PATH") from error


def _load_extensions(arguments: Sequence[str]) -> None:
    """Loads the extensions given with --help, so that it lists what they add."""
    names = [name for text in arguments if text.startswith("--extension=")
             for name in text.partition("=")[2].split(",")]
    if names:
        silence.quiet("normal")
        extension.load(extension.absolute(names))


def _module(name: str) -> ModuleType:
    """Returns the module of a command."""
    return importlib.import_module(f"{commands.__name__}.{name}")


def _overview() -> str:
    """Returns the list of commands, in the order in which they are first needed."""
    width = max(map(len, COMMANDS)) + 4
    modules = sorted(((name, _module(name)) for name in COMMANDS), key=lambda item: item[1].PLACE)
    lines = [f"  {name.ljust(width)}{module.SUMMARY}" for name, module in modules]
    return "\n".join(["Usage: mirrorline COMMAND [--flag=value ...]", "",
                      "Trains image classifiers on one machine, on any number of its GPUs.", "", *lines, "",
                      "'mirrorline COMMAND --help' lists the flags of a command; 'mirrorline train' alone is a first "
                      "run."])


if __name__ == "__main__":
    sys.exit(main())
