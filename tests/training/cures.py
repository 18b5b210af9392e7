"""Calls the tests that detect a missing cure, each without it, and prints their outcomes.

As a program it runs rows of tests.cures in one process and prints a line of JSON for each: the row's number and how the
test ended.

    python -m tests.training.cures [--with-cures] [number ...]
"""
import contextlib
import inspect
import json
import pathlib
import pkgutil
import sys
import tempfile
import time
import traceback

import keras
import pytest

from tests.cures import TESTED, taken_out
from tests.replicas import strategy


def call(test, arguments):
    """Calls a test function with its fixtures and arguments."""
    fixtures = {"strategy": lambda: strategy, "monkeypatch": pytest.MonkeyPatch,
                "tmp_path": lambda: pathlib.Path(tempfile.mkdtemp())}
    wanted = inspect.signature(test).parameters
    given = {name: fixtures[name]() for name in wanted if name in fixtures}
    keras.utils.set_random_seed(0)
    try:
        test(**given, **arguments)
    finally:
        if "monkeypatch" in given:
            given["monkeypatch"].undo()
        keras.config.set_floatx("float32")
        keras.config.set_dtype_policy("float32")


def outcome(cure, test, with_cures):
    """Returns how a row's test ends without the cure: "Exception: message [line of the test]", or "passed"."""
    try:
        with contextlib.nullcontext() if with_cures else taken_out(cure.without):
            call(test, cure.arguments)
    except (Exception, pytest.fail.Exception) as error:
        line = [frame.line for frame in traceback.extract_tb(error.__traceback__) if "/tests/" in frame.filename][-1]
        return f"{type(error).__name__}: {' '.join(str(error).split())[:3000]} [{line}]"
    return "passed"


def main(arguments):
    """Runs rows and prints how each ended."""
    numbers = [int(a) for a in arguments if a.isdigit()] or range(len(TESTED))
    # All of them first: a module imported while a cure is out would keep the replacement.
    tests = {i: pkgutil.resolve_name(TESTED[i].test) for i in numbers}
    for i, test in tests.items():
        began = time.monotonic()
        found = outcome(TESTED[i], test, "--with-cures" in arguments)
        print(json.dumps({"row": i, "outcome": found, "seconds": round(time.monotonic() - began, 1)}), flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
