"""What the processes that a command starts are told by their environment. Standard library only."""
import os
import sys

from pipeline.distributed.cluster import VARIABLE

# What makes a process believe that it is one of several workers: see launch.cluster.adapters.
OF_WORKERS = (VARIABLE, "SLURM_STEP_NODELIST", "JOB_COMPLETION_INDEX")


def child_environment(environment=None):
    """Returns the variables of a child, which runs this same code and is no worker because its parent is one.

    Args:
      environment: {name: value}; default os.environ.
    """
    values = {name: value for name, value in (os.environ if environment is None else environment).items()
              if name not in OF_WORKERS}
    if not {"", os.getcwd()} & set(sys.path):
        values["PYTHONSAFEPATH"] = "1"  # Else `-m` would look into the working directory first.
    return values
