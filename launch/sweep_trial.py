"""One trial of `mirrorline sweep`: a command that does not outlive the sweep.

Not a command itself: `python -m launch.sweep_trial PARENT train --flag=value ...`, or, instead of a command,
`models FILE.json` to check names and options of models without training them.
"""
import ctypes
import json
import os
import signal
import sys

from launch import __main__ as command_line
from pipeline import extension
from pipeline.errors import UsageError

PR_SET_PDEATHSIG = 1  # <linux/prctl.h>
GONE = 1


def end_with(parent):
    """Lets the kernel kill this process when its parent, the process with that number, is gone, however that ended."""
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != parent:  # Gone before that.
        os._exit(GONE)


def check_models(path):
    """Checks {"models": [[model, options], ...], "extension": names} of a JSON file; says what is wrong.

    Returns:
      The exit code.
    """
    from launch import silence
    silence.quiet("normal")
    from pipeline.models import registry
    with open(path, encoding="utf-8") as file:
        order = json.load(file)
    try:
        extension.load(order["extension"])
        for name, options in order["models"]:
            registry.parse_options(name, options)
    except UsageError as error:
        print(" ".join(str(error).splitlines()), file=sys.stderr)
        return command_line.USAGE
    return 0


def main(arguments):
    """Runs the command; returns its exit code."""
    parent, *rest = arguments
    end_with(int(parent))
    return check_models(rest[1]) if rest[0] == "models" else command_line.main(rest)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
