"""Ray: a driver around Ray Train's TensorflowTrainer, which assigns the workers; each is an agent with its trainer.

Ray runs a worker's function in a thread of a process of its own. A trainer sets signal handlers and ends its process
when a peer is lost, so it is a child of that process, and ends with it.
"""
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from typing import Any

from launch.cluster.agent import ENDED
from launch.cluster.failures import PEER_LOST, PREEMPTED, USAGE, ending, last_lines
from launch.cluster.run_records import RunRecords
from pipeline.processes import child_environment, end_with
from pipeline.templates import render

# Imports inside functions: Ray is an optional package.

KEPT_LINES, FIRST_SIGNAL = 60, 128
LOST = ending(PEER_LOST)


def driver(*, name: str, workers: int, command: Sequence[str], workdir: str, address: str | None, max_restarts: int,
           limits: Sequence[str], gpus: int = 0, cpus: int = 1) -> str:
    """Returns the text of a Python program that trains with Ray.

    Args:
      name: beginning of the run's name.
      workers: number of workers.
      command: the trainer's command and flags.
      workdir: directory of the run, on a file system that all nodes share.
      address: of the Ray cluster; None: that of RAY_ADDRESS, or else a local one.
      max_restarts: how often Ray restarts the workers.
      limits: flags of launch.
      gpus, cpus: of each worker.
    """
    config = {"command": [*command, f"--workdir={workdir}"], "workdir": workdir, "limits": limits,
              "folder": os.getcwd()}
    resources = {"CPU": cpus, **({"GPU": gpus} if gpus else {})}
    return render(__package__, "ray_driver.py.jinja", name=name, workers=workers, config=config, address=address,
                  use_gpu=bool(gpus), resources=resources, storage=os.path.join(workdir, "workers", "ray"),
                  max_failures=max_restarts)


def run(text: str) -> int:
    """Runs the program of `driver`; returns its exit code."""
    process = subprocess.Popen([sys.executable, "-c", text])
    while True:
        try:
            return process.wait()
        except KeyboardInterrupt:
            continue  # The driver gets it too, and ends its workers.


def train_worker(config: Mapping[str, Any]) -> dict[str, int]:
    """One worker, as Ray Train calls it.

    Args:
      config: {"command": the trainer's, "workdir": path, "limits": flags of launch, "folder": to work in}.

    Returns:
      {"exit_code": 0, or 2 for wrong flags, which a restart does not correct; "step": latest saved}.

    Raises:
      RuntimeError: the trainer failed; with its last lines. Ray then restarts all workers.
    """
    import ray.train
    assigned = {name: os.environ[name] for name in ("TF_CONFIG",) if name in os.environ}  # Set by Ray.
    process = subprocess.Popen(
        [sys.executable, "-m", "launch", "launch", "--agent", *config["limits"], "--", *config["command"]],
        env={**child_environment(), **assigned, "MIRRORLINE_ATTEMPT": "0"}, stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, encoding="utf-8", errors="replace",
        cwd=config["folder"] if os.path.isdir(config["folder"]) else None, preexec_fn=end_with(os.getpid()))
    lines: list[str] = []
    for line in process.stdout or ():
        lines = [*lines[1 - KEPT_LINES:], line.rstrip("\n")]
        if not line.startswith(ENDED):
            sys.stdout.write(line)  # Ray replaces `print`.
            sys.stdout.flush()
    code = process.wait()
    if code not in (0, USAGE):
        last = last_lines([line for line in lines if not line.startswith(ENDED)])
        what = "was stopped, and saved" if code == PREEMPTED else LOST if code == PEER_LOST else ending(
            code if code < FIRST_SIGNAL else FIRST_SIGNAL - code)
        raise RuntimeError("\n".join([f"worker {ray.train.get_context().get_world_rank()} {what}", *last]))
    return {"exit_code": code, "step": RunRecords(config["workdir"]).saved_step()}


def exit_code(trainer: Any) -> int:
    """Runs a TensorflowTrainer of `train_worker`; returns the exit code, after reporting the first failure."""
    from ray.train import TrainingFailedError
    try:
        result = trainer.fit()
    except TrainingFailedError as error:
        print(f"mirrorline launch: {cause(error)}", file=sys.stderr)
        return 1
    return int(result.return_value["exit_code"])


def cause(error: Exception) -> str:
    """Returns the message of the worker that caused a TrainingFailedError, not that of one that lost a peer."""
    found = [str(failure) for _, failure in sorted(getattr(error, "worker_failures", {}).items())]
    own = [text for text in found if f"{LOST}\n" not in f"{text}\n"]
    return (own or found or [str(error)])[0]
