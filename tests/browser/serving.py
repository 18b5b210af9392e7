"""Runs that were really trained, and the real `mirrorline tensorboard` on their folder."""
import contextlib
import json
import signal
import time
import urllib.request

from tests.commands import REPOSITORY, start

TABS = {"timeseries", "images", "graphs", "text", "pr_curves", "hparams", "projector"}
PARTS = ("train", "validation", "test")  # Of a run, those with scalars.


def train(folder, runs):
    """Trains runs at the same time; folder of runs, {name: its flags}.

    Raises:
      AssertionError: one of them failed.
    """
    folder.mkdir(parents=True, exist_ok=True)
    processes = [start("train", "--tensorboard=full", *flags, f"--workdir={folder / name}", cwd=folder)
                 for name, flags in runs.items()]
    for process in processes:
        out, errors = process.communicate(timeout=600)
        assert process.returncode == 0, out + errors


def names_in(folder):
    """Returns what TensorBoard calls the runs of a folder, those with scalars."""
    return {f"{path.parent.name}/tensorboard/{part}" for path in folder.glob("*/result.json") for part in PARTS}


@contextlib.contextmanager
def tensorboard(argument, names):
    """Runs the command; yields the address, once everything that is there has been read.

    Args:
      argument: --logdir=FOLDER or --workdir=RUN.
      names: what TensorBoard calls the runs that it is to show.

    Raises:
      AssertionError: it did not start, was not ready in time, or did not end well.
    """
    process = start("tensorboard", argument, "--port=0", cwd=REPOSITORY, fresh=True)
    try:
        address = next((word for word in process.stdout.readline().split() if word.startswith("http://")), None)
        assert address, process.communicate(timeout=600)[1]
        deadline = time.monotonic() + 600
        while missing := not_read(address, names):
            assert time.monotonic() < deadline, f"TensorBoard does not show {missing}"
            time.sleep(0.1)
        yield address
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=600)
        assert (process.returncode, errors) == (0, "")
    finally:
        process.kill()
        process.communicate()


def not_read(address, names):
    """Returns the missing tabs, and the runs without an accuracy."""
    tabs = {name for name, plugin in fetch(address, "data/plugins_listing").items() if plugin["enabled"]}
    tags = fetch(address, "data/plugin/scalars/tags")
    return (TABS - tabs) | {name for name in names if "accuracy" not in tags.get(name, ())}


def fetch(address, path):
    """Returns the JSON at a path of the server."""
    with urllib.request.urlopen(address + path, timeout=600) as response:
        return json.load(response)
