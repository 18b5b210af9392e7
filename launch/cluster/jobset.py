"""Kubernetes: the manifest of a JobSet whose pods are the workers, and of their network policy."""
import re
from collections.abc import Sequence
from typing import Any

from launch.cluster.adapters import DEFAULT_PORT
from launch.cluster.agent import GIVEN_UP
from pipeline.errors import UsageError
from pipeline.templates import render

# A pod's name is <name>-workers-0-<index>-<5 characters>, and has to be a DNS label.
LONGEST_NAME = 63 - len("-workers-0-") - len("-12345")
QUANTITY = r"\d+(\.\d+)?(m|[kMGTPE]i?)?"


def manifest(*, name: str, workers: int, command: Sequence[str], workdir: str, image: str, volume: str,
             limits: Sequence[str], grace: float, gpus: int = 0, cpus: str = "", memory: str = "") -> str:
    """Returns the text of two YAML documents.

    Args:
      name: of the JobSet, and of the subdomain in which its workers find each other.
      workers: number of pods.
      command: the trainer's command and flags.
      workdir: directory of the run, within the volume.
      image: of the container, with mirrorline on its path.
      volume: "claim:/folder", a PersistentVolumeClaim that all pods can write to, and where it is mounted.
      limits: flags of launch.
      grace: seconds for a pod to save once it is asked to end.
      gpus: of each worker.
      cpus, memory: quantities that each worker requests; "": none.

    Raises:
      UsageError: a value that Kubernetes would refuse.
    """
    most = LONGEST_NAME - len(str(workers - 1))
    if not re.fullmatch(r"[a-z]([-a-z0-9]*[a-z0-9])?", name) or len(name) > most:
        raise UsageError(f"--name={name}: a JobSet with {workers} workers has a name of at most {most} characters a-z, "
                         "0-9 and -, of which the first is a letter")
    claim, _, folder = volume.partition(":")
    if not re.fullmatch(r"[a-z0-9]([-.a-z0-9]*[a-z0-9])?", claim) or not folder.startswith("/"):
        raise UsageError(f"--volume={volume}: give the PersistentVolumeClaim that all workers share, and where they "
                         "see it, such as --volume=shared-runs:/runs")
    if not workdir.startswith(folder.rstrip("/") + "/"):
        raise UsageError(f"--workdir={workdir} is not in the volume that all workers share; give a folder in {folder}")
    if not image:
        raise UsageError("--image is missing: the container image with mirrorline in it, such as "
                         "--image=registry.example/mirrorline:1")
    requests = {kind: value for kind, value in (("cpu", cpus), ("memory", memory)) if value}
    for kind, value in requests.items():
        if not re.fullmatch(QUANTITY, value):
            raise UsageError(f"{kind} of a worker: '{value}' is no quantity such as 4 or 16Gi")
    resources: dict[str, dict[str, Any]] = {"requests": requests} if requests else {}
    if gpus:
        resources["limits"] = {"nvidia.com/gpu": gpus}
    arguments = ["launch", "--agent", *limits, "--", *command, f"--workdir={workdir}"]
    return render(
        __package__, "jobset.yaml", name=name, workers=workers, given_up=GIVEN_UP, grace=round(grace), image=image,
        # Kubernetes would replace $(NAME) by that variable's value.
        arguments=[argument.replace("$(", "$$(") for argument in arguments], port=DEFAULT_PORT, resources=resources,
        mount=folder, claim=claim)
