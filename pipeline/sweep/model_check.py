"""Checks names and options of models, in a process of its own, since that loads TensorFlow.

Not a command: `python -m pipeline.sweep.model_check FILE.json`; see `main`.
"""
import json
import sys

from pipeline import extension
from pipeline.errors import UsageError
from pipeline.models import registry

USAGE = 2  # Exit code.


def main(path: str) -> int:
    """Checks {"models": [[model, options], ...], "extension": names} of a JSON file; returns the exit code."""
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


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
