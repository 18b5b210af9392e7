"""A process of `mirrorline find --batch_size`: tries one batch size with the real step, and measures its speed.

Not a command: `python -m pipeline.finding.batch_process ORDER.json`; its order, memory limit and exit codes are those
of pipeline.benchmark.cell_process, with "longest_step" in seconds.
"""
import sys
from typing import Any

from pipeline.benchmark import cell_process
from pipeline.config import ExperimentConfig
from pipeline.console import Console
from pipeline.distributed import cuda
from pipeline.distributed.cluster import Cluster

# Imports inside functions: settings come before TensorFlow is imported.

WINDOW, WINDOWS = 0.5, 3  # Seconds of a window of whole steps, and how many.
MARGIN = 0.95  # Share of the memory of a GPU that a batch may use.


def try_batch(order: dict[str, Any], config: ExperimentConfig, cluster: Cluster | None) -> dict[str, Any]:
    """Builds the experiment as `mirrorline train` does, trains a few steps in its last phase, and measures them.

    In the last phase the most weights train.

    Returns:
      {"examples_per_second", "step_ms", "peak_memory_mib": {"host", "device"}, "num_examples" of the training split,
      "device": "CPU" or "GPU"}.

    Raises:
      MemoryError: the peak is within the margin of the memory of a GPU.
    """
    from pipeline.training.experiment import compose, start
    strategy, source = start(config, Console(quiet=True))
    import numpy as np

    from pipeline.benchmark.measure import Feed, peak_memory
    cell_process.report_phase(order, "building")
    experiment = compose(config, source, strategy)
    last = experiment.plan.total_steps - 1
    experiment.enter_phase(last)
    feed = Feed(experiment.steps.train_steps, experiment.train_iterator(last))
    cell_process.report_phase(order, "first step")
    feed.run(1)
    cell_process.report_phase(order, "measuring")
    step = feed.run(1)
    rates = [config.training.batch_size / step]
    if step < order["longest_step"]:
        count = max(1, round(WINDOW / min(step, feed.run(1))))
        rates = [count * config.training.batch_size / feed.run(count) for _ in range(WINDOWS)]
    peak, rate = peak_memory(strategy), float(np.median(rates))
    if peak["device"] is not None:
        check_margin(peak["device"])
    return {"examples_per_second": rate, "step_ms": 1e3 * config.training.batch_size / rate, "peak_memory_mib": peak,
            "num_examples": source.train.num_examples, "device": "CPU" if peak["device"] is None else "GPU"}


def check_margin(peak: float) -> None:
    """Raises MemoryError if a peak in MiB is within the margin of the memory of the smallest GPU."""
    totals = [total for _, total in cuda.installed_gpus()]
    if totals and peak > MARGIN * min(totals):
        raise MemoryError(f"{peak:,.0f} of {min(totals):,} MiB are within the margin of {1 - MARGIN:.0%}")


if __name__ == "__main__":
    sys.exit(cell_process.main(sys.argv[1], try_batch))
