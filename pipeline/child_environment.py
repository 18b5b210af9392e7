"""The environment of the processes that a command starts. Standard library only."""
import os
import sys
from collections.abc import Mapping

from pipeline.distributed.cluster import VARIABLE

# Variables that make a process one of several workers: see launch.cluster.adapters.
OF_WORKERS = (VARIABLE, "SLURM_STEP_NODELIST", "JOB_COMPLETION_INDEX")


def child_environment(environment: Mapping[str, str] | None = None) -> dict[str, str]:
    """Returns the variables of a child that runs the same code and is not a worker.

    Args:
      environment: {name: value}; default os.environ.
    """
    values = {name: value for name, value in (os.environ if environment is None else environment).items()
              if name not in OF_WORKERS}
    if not {"", os.getcwd()} & set(sys.path):
        values["PYTHONSAFEPATH"] = "1"  # Otherwise `-m` would search the working directory first.
    return values
