"""A process that computes on command: python -m benchmarks.worker ORDER, see benchmarks.processes.

The order is {"peer": name, "workload": fields of a Workload, "data": folder, ...} of JSON's types. Each line of
standard input is a command, {"command": name, ...}, answered by one line of JSON; the end of the input is the end. What
libraries print goes to standard error.
"""
import dataclasses
import json
import os
import sys
from typing import Any

from benchmarks.gate import Gate
from benchmarks.workloads import CEILING, TORCH_PEERS, Workload
from pipeline.errors import RunFailure, UsageError


def main(text: str) -> int:
    """Runs the peer of an order; returns the exit code."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    order = json.loads(text)
    fields = order["workload"]
    order["workload"] = Workload(**{f.name: tuple(v) if isinstance(v := fields[f.name], list) else v
                                    for f in dataclasses.fields(Workload)})
    from pipeline import silence
    silence.quiet("normal")
    try:
        run(order, Gate(sys.stdin, answers))
    except (UsageError, RunFailure) as error:
        print(" ".join(str(error).splitlines()), file=sys.stderr)
        return 2 if isinstance(error, UsageError) else 1
    return 0


def run(order: dict[str, Any], gate: Gate) -> None:
    """Runs one peer. Each needs one framework, of which the others would take memory and threads."""
    peer = order["peer"]
    if peer == CEILING:
        from benchmarks.ceiling import run as run_peer
    elif peer in TORCH_PEERS:
        from benchmarks.torch_peers import run as run_peer
    elif peer.startswith("mirrorline"):
        from benchmarks.mirrorline_peers import run as run_peer
    else:
        from benchmarks.keras_peers import run as run_peer
    run_peer(order, gate)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
