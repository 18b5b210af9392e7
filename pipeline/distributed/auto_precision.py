"""--precision=auto: the arithmetic for which the GPUs of a new run have Tensor Cores; later that of the run."""
from collections.abc import Mapping, Sequence
from typing import Any

from pipeline.config import AUTO, ExperimentConfig
from pipeline.console import Console
from pipeline.distributed import cuda

# By NVIDIA's CUDA C++ Programming Guide, "Compute Capabilities": bfloat16 from 8.0 (Ampere) on; float16 on 7.0 (Volta)
# and 7.5 (Turing), which emulate bfloat16.
BFLOAT16_FROM, FLOAT16_ON = (8, 0), ((7, 0), (7, 5))


def resolved(config: ExperimentConfig, stored: Mapping[str, Any] | None = None) -> str:
    """Returns the precision of a configuration, chosen for --precision=auto; arguments as of `choose`."""
    return choose(config, stored or {})[0] if config.runtime.precision == AUTO else config.runtime.precision


def choose(config: ExperimentConfig, stored: Mapping[str, Any]) -> tuple[str, str]:
    """Returns (precision, why) for --precision=auto.

    Args:
      config: of the run.
      stored: {option name: value} with which the run began, {} for a new one.
    """
    if stored:
        return str(stored["precision"]), "as this run began"
    found = cuda.compute_capabilities()
    chosen = [found[int(index)] for index in config.runtime.devices if int(index) < len(found)]
    return for_gpus(chosen or found[:config.runtime.replicas or None])


def report(given: str, config: ExperimentConfig, stored: Mapping[str, Any], console: Console) -> None:
    """Says in one line what --precision=auto, if that was `given`, has become; other arguments as of `choose`."""
    if given == AUTO:
        console.info("precision {}, {}".format(*choose(config, stored)))


def for_gpus(capabilities: Sequence[tuple[int, int]]) -> tuple[str, str]:
    """Returns (precision, why) for GPUs by their compute capabilities, of which the lowest decides."""
    if not capabilities:
        return "float32", "without a GPU"
    lowest = min(capabilities)
    precision = ("mixed_bfloat16" if lowest >= BFLOAT16_FROM else
                 "mixed_float16" if lowest in FLOAT16_ON else "float32")
    return precision, f"for a GPU of compute capability {lowest[0]}.{lowest[1]}"
