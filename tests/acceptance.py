"""make acceptance: the full matrices, cell after cell, resumable, written to docs/acceptance.json.

A cell that was green on the same sources is not run again. Options: --only=TEXT runs the cells whose name has it,
--jobs=N as many at a time (the times that are reported are longer then). The cells of Ray need the extra ray, those of
Slurm root, with which they install and start one; without they fail.
"""
import atexit
import concurrent.futures
import json
import os
import platform
import shutil
import subprocess
import sys
import time

from tests import surroundings

if __name__ == "__main__":
    atexit.register(shutil.rmtree, surroundings.settle(), ignore_errors=True)
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

from tests.cells import cells  # noqa: E402
from tests.commands import REPOSITORY  # noqa: E402

REPORT = REPOSITORY / "docs" / "acceptance.json"


def git(*arguments):
    """Returns what git says."""
    done = subprocess.run(["git", *arguments], cwd=REPOSITORY, text=True, capture_output=True, check=True)
    return done.stdout.strip()


def sources():
    """Identifies the code under test: the trees of the rooms, and whether anything in them is uncommitted."""
    rooms = ("pipeline", "launch", "flags", "recipes")
    dirty = git("status", "--porcelain", *rooms)
    return "-".join(git("rev-parse", f"HEAD:{room}")[:8] for room in rooms) + ("-dirty" if dirty else "")


def run(function, values):
    """Runs one cell; returns what is reported of it."""
    began = time.monotonic()
    try:
        found, passed = function(*values), True
    except (AssertionError, OSError, ValueError, LookupError, subprocess.SubprocessError) as error:
        found, passed = {"error": str(error) or repr(error)}, False
    return {"passed": passed, "seconds": round(time.monotonic() - began, 1), **found}


def write(report, jobs):
    """Writes the report of all cells so far."""
    report.update(commit=git("rev-parse", "HEAD"), command="make acceptance", jobs=jobs,
                  python=platform.python_version(), machine=f"{platform.machine()}, {os.cpu_count()} cores")
    REPORT.parent.mkdir(exist_ok=True)
    REPORT.write_text(json.dumps(report, indent=1) + "\n")


def main(arguments):
    """Runs what is not green yet; returns the exit code."""
    given = dict(argument.removeprefix("--").split("=", 1) for argument in arguments)
    only, jobs, code = given.get("only", ""), int(given.get("jobs", 1)), sources()
    report = json.loads(REPORT.read_text()) if REPORT.exists() else {"cells": {}}
    wanted = {name: (function, values) for name, function, values in cells()}
    green = {name: cell for name, cell in report["cells"].items()
             if name in wanted and cell.get("sources") == code and cell["passed"]}
    report["cells"] = green
    due = {name: cell for name, cell in wanted.items() if only in name and name not in green}
    with concurrent.futures.ThreadPoolExecutor(jobs) as executor:
        names = {executor.submit(run, *cell): name for name, cell in due.items()}
        for done in concurrent.futures.as_completed(names):
            name, found = names[done], done.result()
            report["cells"][name] = {"sources": code, **found}
            write(report, jobs)
            print(f"{'passed' if found['passed'] else 'FAILED'}  {name}  {found['seconds']} s  "
                  f"{found.get('error', '')}", flush=True)
    missing = [name for name in wanted if not report["cells"].get(name, {}).get("passed")]
    print(f"{len(wanted) - len(missing)} passed, {len(missing)} failed or not run")
    return 1 if missing else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
