"""Runs several commands one after another in one process: python -m tests.several '[["evaluate", "--tta=0"], ...]'.

Prints [[exit code, standard output, standard error], ...] as JSON.
"""
import contextlib
import io
import json
import sys

from launch.__main__ import main


def answer(arguments):
    """Returns [exit code, standard output, standard error] of `mirrorline ARGUMENTS`."""
    with contextlib.redirect_stdout(io.StringIO()) as said, contextlib.redirect_stderr(io.StringIO()) as errors:
        code = main(arguments)
    return [code, said.getvalue(), errors.getvalue()]


if __name__ == "__main__":
    print(json.dumps([answer(arguments) for arguments in json.loads(sys.argv[1])]))
