"""The roll call: all workers of a run are there and want the same, or each says who is missing.

TensorFlow waits for a worker that does not come without an end and without a word, so it is asked only when all are
there. The chief listens where TensorFlow will listen, for as long as this lasts. Standard library only.
"""
import contextlib
import hashlib
import json
import socket
import time

from pipeline.errors import RunFailure, UsageError

PAUSE = 0.2  # Seconds between two attempts to reach the chief.
LONGEST_LINE = 4096


class PeerLost(RunFailure):
    """This worker cannot go on because of another one."""


def roll_call(cluster, seconds, settings):
    """Returns once every worker is there.

    Args:
      cluster: Cluster.
      seconds: how long to wait; 0: for ever.
      settings: text that has to be the same on every worker.

    Raises:
      PeerLost: a worker did not come in time; names it and its address.
      UsageError: a worker was started with other settings, or the chief's port is not free.
    """
    deadline = time.monotonic() + seconds if seconds else float("inf")
    settings = hashlib.sha256(repr((cluster.addresses, settings)).encode()).hexdigest()
    answer = _call(cluster, settings, deadline) if cluster.rank == 0 else _answer(cluster, settings, deadline)
    if answer.get("missing"):
        raise PeerLost(f"worker {cluster.rank} waited {seconds:g} s (--start_timeout) for the others: no word from "
                       + ", ".join(f"worker {rank} at {cluster.addresses[rank]}" for rank in answer["missing"]))
    if answer.get("other"):
        others = ", ".join(map(str, answer["other"]))
        raise UsageError(f"worker {others} of {len(cluster.addresses)} has other flags, addresses or devices than "
                         "worker 0: start all of them with the same ones")


def _call(cluster, settings, deadline):
    """Listens as the chief until all have come or it is too late, and tells everybody who came what it found."""
    here, other = {}, []
    host, port = host_and_port(cluster.addresses[0])
    with contextlib.ExitStack() as stack:
        try:
            listener = stack.enter_context(socket.create_server((host, port), family=_family(host), backlog=1024))
        except OSError as error:
            raise UsageError(f"worker 0 cannot listen at {cluster.addresses[0]}: {error.strerror.lower()}; give an "
                             "address of this machine and a port that is free") from error
        while len(here) < len(cluster.addresses) - 1 and time.monotonic() < deadline:
            listener.settimeout(min(1.0, max(0.01, deadline - time.monotonic())))
            with contextlib.suppress(OSError, ValueError, KeyError):
                connection = stack.enter_context(listener.accept()[0])
                connection.settimeout(1.0)
                word = _read(connection)
                here[int(word["rank"])] = connection
                other += [word["rank"]] * (word["settings"] != settings)
        missing = [rank for rank in range(1, len(cluster.addresses)) if rank not in here]
        answer = {"missing": missing, "other": sorted(other)}
        for connection in here.values():
            with contextlib.suppress(OSError):
                connection.sendall(json.dumps(answer).encode() + b"\n")
        for connection in here.values():  # Who closes first keeps the port busy for a while: not the chief.
            with contextlib.suppress(OSError):
                connection.settimeout(1.0)
                connection.recv(1)
    return answer


def _answer(cluster, settings, deadline):
    """Tells the chief that this worker is there, and returns what the chief says when it has heard all."""
    word = json.dumps({"rank": cluster.rank, "settings": settings}).encode() + b"\n"
    while time.monotonic() < deadline:
        with contextlib.suppress(OSError, ValueError):
            with socket.create_connection(host_and_port(cluster.addresses[0]), timeout=2.0) as connection:
                connection.sendall(word)
                # The chief speaks at its own deadline, which may be later than this one.
                connection.settimeout(min(max(1.0, deadline - time.monotonic() + 5), 1e6))
                return _read(connection)
        time.sleep(PAUSE)
    return {"missing": [0]}


def _read(connection):
    """Returns the JSON object of one line; ValueError where the other side closed before its end."""
    with connection.makefile("rb") as lines:
        return json.loads(lines.readline(LONGEST_LINE))


def host_and_port(address):
    """Returns ("host", port) of "host:port" or "[host]:port"."""
    host, _, port = address.rpartition(":")
    return host.strip("[]"), int(port)


def _family(host):
    return socket.AF_INET6 if ":" in host else socket.AF_INET
