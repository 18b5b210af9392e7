"""The command that shows runs in the browser: its address, what it serves, and how it ends."""
import contextlib
import json
import os
import signal
import socket
import time
import urllib.request

import psutil
import pytest

from pipeline.monitoring.events import EventWriter
from tests.commands import mirrorline, start
from tests.test_edited_files import RUN

LINE = "mirrorline tensorboard: "


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A folder with the scalars of two runs under runs/."""
    here = tmp_path_factory.mktemp("folder")
    for name, loss in (("first", 2.5), ("second", 0.1)):
        writer = EventWriter(str(here / "runs" / name / "tensorboard" / "train"))
        writer.scalars(7, time.time(), {"loss": loss})
        writer.close()
        (here / "runs" / name / "config.json").write_text(json.dumps(RUN))
    return here


@contextlib.contextmanager
def served(folder, *arguments):
    """Starts the command; yields (process, its lines up to the last one, the address)."""
    process = start("tensorboard", *arguments, cwd=folder, fresh=True)
    try:
        lines = [process.stdout.readline().strip()]
        while lines[-1] and lines[-1] != "press Ctrl-C to stop" and "--verbosity=quiet" not in arguments:
            lines.append(process.stdout.readline().strip())
        address = next((word for word in lines[0].split() if word.startswith("http://")), None)
        assert address, process.communicate(timeout=600)[1]
        yield process, lines, address
    finally:
        process.kill()
        process.communicate()


def fetch(address, path):
    """Returns the JSON at a path of the server."""
    with urllib.request.urlopen(address + path, timeout=600) as response:
        return json.load(response)


def fetch_runs(address, count):
    """Returns the names of the runs that it shows, once there are `count`: it reads them in the background."""
    deadline = time.monotonic() + 600
    while len(found := fetch(address, "data/runs")) < count and time.monotonic() < deadline:
        time.sleep(0.05)
    return sorted(found)


def ended(children):
    """Tells whether none of the processes runs any more."""
    return not any(child.is_running() and child.status() != psutil.STATUS_ZOMBIE for child in children)


def test_it_shows_every_run_at_an_address_of_this_machine_alone(folder):
    with served(folder, "--port=0") as (process, lines, address):
        port = int(address.rstrip("/").rpartition(":")[2])
        assert lines[0] == f"tensorboard  http://localhost:{port}/  shows runs"
        assert lines[1].startswith("from another machine:  ssh -L ") and f"{port}:localhost:{port} " in lines[1]
        assert lines[-1] == "press Ctrl-C to stop"
        assert fetch_runs(address, 2) == ["first/tensorboard/train", "second/tensorboard/train"]
        assert fetch(address, "data/plugin/scalars/scalars?run=second/tensorboard/train&tag=loss")[0][1:] == [
            7, pytest.approx(0.1, rel=1e-7)]
        listening = {each.laddr.ip for each in psutil.Process(process.pid).net_connections("tcp")
                     if each.status == psutil.CONN_LISTEN}
        assert listening and listening <= {"127.0.0.1", "::1"}
        assert fetch(address, "data/plugin/projector/runs") == []
        with open(f"/proc/{process.pid}/maps") as maps:
            assert "libtensorflow" not in maps.read()  # Seconds and hundreds of MiB, for nothing.
        children = psutil.Process(process.pid).children(recursive=True)
        process.send_signal(signal.SIGINT)
        out, errors = process.communicate(timeout=600)
        assert (process.returncode, out, errors) == (0, "", "") and ended(children)


def test_a_taken_port_is_said_and_the_next_free_one_taken(folder):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with served(folder, f"--port={port}", "--workdir=runs/first") as (process, lines, address):
            found = int(address.rstrip("/").rpartition(":")[2])
            assert port < found < port + 100 and lines[1] == f"port {port} is taken"
            assert "shows runs/first/tensorboard" in lines[0] and fetch_runs(address, 1) == ["train"]
            # Ctrl-C on a terminal reaches every process of the command.
            children = psutil.Process(process.pid).children(recursive=True)
            for child in children:
                child.send_signal(signal.SIGINT)
            time.sleep(0.1)
            assert fetch(address, "data/runs") == ["train"]
            process.send_signal(signal.SIGTERM)
            assert process.wait(timeout=600) == 0 and ended(children)


def test_killed_it_leaves_nothing_behind(folder):
    with served(folder, "--port=0", "--verbosity=quiet") as (process, lines, address):
        assert lines == [address]
        children = psutil.Process(process.pid).children(recursive=True)
        process.kill()
        process.wait(timeout=600)
        deadline = time.monotonic() + 600
        while not ended(children) and time.monotonic() < deadline:
            time.sleep(0.02)
        assert ended(children)


@pytest.mark.parametrize("arguments, line", [
    (["--logdir=none"], "--logdir=none does not exist: give the folder of your runs, or train one first: "),
    (["--logdir=empty"], "--logdir=empty holds no run: give the folder of your runs, or train one first: "),
    (["--logdir=runs/first/config.json"], "--logdir=runs/first/config.json is a file: "),
    (["--workdir=runs/third"], "--workdir=runs/third holds no run (no config.json); runs here: runs/first, "),
    (["--workdir=runs/first", "--logdir=runs"], "--logdir=runs and --workdir=runs/first are both given"),
    (["--host=192.0.2.1"], "--host=192.0.2.1 --port=6006: Cannot assign requested address; give localhost\n"),
    (["--port=70000"], "--port must be from 0 to 65535; found 70000\n"),
])
def test_what_cannot_be_shown_is_one_line_and_exit_code_2(folder, arguments, line):
    (folder / "empty").mkdir(exist_ok=True)
    done = mirrorline("tensorboard", *arguments, cwd=folder)
    assert done.returncode == 2 and done.stdout == ""
    assert done.stderr.startswith(LINE + line) and done.stderr.count("\n") == 1, done.stderr
    assert os.listdir(folder / "empty") == []
