"""A lost worker ends the others; a worker that has finished does not."""
import signal
import subprocess
import sys
import time

import pytest

from tests.commands import REPOSITORY, environment
from tests.distributed.processes import free_ports

WORKER = """
import sys
from pipeline.distributed import peer_failure
from pipeline.distributed.cluster import Cluster
from pipeline.distributed.rendezvous import meet
peer_failure.SECONDS = 0.5
cluster = Cluster(tuple(f"127.0.0.1:{port}" for port in sys.argv[2:]), int(sys.argv[1]))
peer_failure.watch(cluster.rank, meet(cluster, 30, ""))
print("met", flush=True)
if sys.stdin.readline() == "leave\\n":
    peer_failure.leave()
    print("left", flush=True)
    sys.stdin.readline()
"""


@pytest.fixture
def start():
    """Returns a function (rank, ports) -> a worker that has no part but to be there; none is left at the end."""
    started = []

    def run(rank, ports):
        started.append(subprocess.Popen(
            [sys.executable, "-c", WORKER, str(rank), *map(str, ports)], cwd=REPOSITORY, env=environment(), text=True,
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE))
        return started[-1]

    yield run
    for process in started:
        process.kill()
        process.communicate()


def say(process, word, answer):
    process.stdin.write(f"{word}\n")
    process.stdin.flush()
    assert process.stdout.readline() == f"{answer}\n"


def test_lost_worker_ends_the_chief_and_the_others(start):
    ports = free_ports(3)
    workers = [start(rank, ports) for rank in range(3)]
    assert [worker.stdout.readline() for worker in workers] == ["met\n"] * 3
    time.sleep(0.7)
    assert [worker.poll() for worker in workers] == [None] * 3
    workers[2].send_signal(signal.SIGKILL)
    for worker in workers:
        worker.wait(timeout=600)  # Their input stays open: its end would let them go.
    errors = [worker.stderr.read() for worker in workers]
    assert [worker.returncode for worker in workers] == [76, 76, -signal.SIGKILL]
    assert [error.split(",")[0] for error in errors] == [
        "mirrorline train: worker 0 lost worker 2", "mirrorline train: worker 1 lost worker 0", ""]


@pytest.mark.parametrize("first, says_so", [(0, True), (1, True), (1, False)])
def test_finished_worker_may_leave(start, first, says_so):
    ports = free_ports(2)
    workers = [start(rank, ports) for rank in range(2)]
    assert [worker.stdout.readline() for worker in workers] == ["met\n"] * 2
    if says_so:
        say(workers[first], "leave", "left")
    workers[first].communicate("end\n", timeout=600)
    time.sleep(1.0)
    assert workers[1 - first].poll() is None
    say(workers[1 - first], "leave", "left")
    workers[1 - first].communicate("end\n", timeout=600)
    assert [worker.returncode for worker in workers] == [0, 0]


def test_worker_lost_during_the_rendezvous_is_waited_for_again(start):
    ports = free_ports(3)
    chief, first = start(0, ports), start(1, ports)
    time.sleep(1.0)  # It has been heard, if the machine is not busy.
    first.kill()
    first.wait()
    third = start(2, ports)
    time.sleep(1.0)
    assert chief.poll() is None and third.poll() is None
    workers = [chief, start(1, ports), third]
    assert [worker.stdout.readline() for worker in workers] == ["met\n"] * 3
