"""A process that does not outlive the sweep that started it, however that ends.

Not a command: `python -m pipeline.sweep.trial_process PARENT MODULE ARGUMENT ...` runs `python -m MODULE ARGUMENT ...`;
`python -m pipeline.sweep.trial_process PARENT --check-models FILE.json` checks names and options of models without
training them.
"""
import ctypes
import json
import os
import runpy
import signal
import sys

from pipeline import extension
from pipeline.errors import UsageError

PR_SET_PDEATHSIG = 1  # <linux/prctl.h>
GONE, USAGE = 1, 2  # Exit codes.
CHECK_MODELS = "--check-models"


def end_with(parent: int) -> None:
    """Lets the kernel kill this process when the process `parent`, which started it, is gone."""
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != parent:  # Gone before that.
        os._exit(GONE)


def check_models(path: str) -> int:
    """Checks {"models": [[model, options], ...], "extension": names} of a JSON file; returns the exit code."""
    from pipeline.models import registry  # TensorFlow: not before the kernel knows the parent.
    with open(path, encoding="utf-8") as file:
        order = json.load(file)
    try:
        extension.load(order["extension"])
        for name, options in order["models"]:
            registry.parse_options(name, options)
    except UsageError as error:
        print(" ".join(str(error).splitlines()), file=sys.stderr)
        return USAGE
    return 0


def main(arguments: list[str]) -> int:
    """Runs what was asked for; returns its exit code."""
    parent, first, *rest = arguments
    end_with(int(parent))
    if first == CHECK_MODELS:
        return check_models(rest[0])
    sys.argv[1:] = rest
    runpy.run_module(first, run_name="__main__", alter_sys=True)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
