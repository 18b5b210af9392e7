"""One process of `mirrorline benchmark`: surveys the machine, or measures one cell as one of its workers.

Not a command: `python -m pipeline.benchmark.cell_process ORDER.json`. An order has "config": {option: value}, "parent":
id of the process it ends with, "memory_limit" in MiB or 0, "results": path of the JSON that it writes, "phase": path of
a text with its current phase, and either "survey", see `survey`, or "workers" and "extent", see
pipeline.benchmark.measure. TF_CONFIG tells the rank among several workers, of which the chief writes the phase.

Exit codes: 0, 1 a failure, 2 wrong use, 3 not enough memory, 76 another worker was lost.
"""
import json
import os
import resource
import sys
import traceback
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from pipeline import extension, silence
from pipeline.benchmark.cell_runner import results_file
from pipeline.config import ExperimentConfig
from pipeline.console import Console
from pipeline.distributed.cluster import Cluster
from pipeline.distributed.rendezvous import PeerLost
from pipeline.errors import RunFailure, UsageError
from pipeline.files import write_json
from pipeline.full_memory import NO_MEMORY, is_memory
from pipeline.processes import end_with
from pipeline.processor import cpu_features

# Imports inside functions: settings come before TensorFlow is imported.

FAILURE, USAGE, PEER_LOST = 1, 2, 76
Work = Callable[[dict[str, Any], ExperimentConfig, Cluster | None], dict[str, Any]]
CEILING_SECONDS = 0.3  # A round of the matrix product, or less where windows are shorter.


def main(path: str, work: Work | None = None) -> int:
    """Carries out an order, by default that of a cell or a survey; returns the exit code.

    `work`: function of the order, its configuration and the cluster or None, to what the results hold.
    """
    with open(path, encoding="utf-8") as file:
        order = json.load(file)
    end_with(order["parent"])()
    if order["memory_limit"]:
        # Of private writable memory; address space that libraries merely reserve does not count.
        resource.setrlimit(resource.RLIMIT_DATA, (order["memory_limit"] * 2**20,) * 2)
    silence.quiet(order["config"]["verbosity"])
    cluster = Cluster.of(os.environ) if order.get("workers", 1) > 1 else None
    code = carry_out(order, cluster, work or survey_or_measure)
    if code and cluster:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)  # TensorFlow would wait for the other workers at exit.
    return code


def carry_out(order: dict[str, Any], cluster: Cluster | None, work: Work) -> int:
    """Does the work of an order, as one worker of a cluster or alone; returns the exit code."""
    try:
        config = ExperimentConfig.from_flat(order["config"])
        found = work(order, config, cluster)
        write_json(results_file(order, cluster.rank if cluster else 0), found)
    except (UsageError, RunFailure) as error:
        print(" ".join(str(error).splitlines()), file=sys.stderr)
        return PEER_LOST if isinstance(error, PeerLost) else USAGE if isinstance(error, UsageError) else FAILURE
    except Exception as error:
        if is_memory(error):
            print(f"not enough memory ({type(error).__name__})", file=sys.stderr)
            return NO_MEMORY
        traceback.print_exc()
        return FAILURE
    return 0


def survey_or_measure(order: dict[str, Any], config: ExperimentConfig, cluster: Cluster | None) -> dict[str, Any]:
    """Carries out the order of a survey or of a cell."""
    return survey(order, config) if "survey" in order else measure(order, config, cluster)


def survey(order: dict[str, Any], config: ExperimentConfig) -> dict[str, Any]:
    """Loads each data set, checks that each model fits it, and measures the ceilings.

    Args:
      order: with "survey": {"precisions": names, "pairs": [[model, dataset]], "seconds": of a window of a cell}.
      config: of what is not varied.

    Returns:
      {"ceilings": {precision: figures}, "image_sizes": {dataset: "HxWxC"}}.

    Raises:
      UsageError: data that cannot be loaded, or a model that does not exist or fit them.
    """
    import tensorflow as tf

    from pipeline.monitoring.ceiling import matrix_product_rate
    wanted = order["survey"]
    sizes = check_inputs(wanted["pairs"], config, PhaseConsole(order))
    kind = "GPU" if tf.config.list_physical_devices("GPU") else "CPU"
    ceilings = {}
    for precision in wanted["precisions"]:
        report_phase(order, f"matrix product, {precision}")
        ceilings[precision] = matrix_product_rate(precision, kind, min(CEILING_SECONDS, wanted["seconds"]))
    return {"ceilings": ceilings, "image_sizes": sizes}


def check_inputs(pairs: Iterable[Sequence[str]], config: ExperimentConfig, console: Console) -> dict[str, str]:
    """Returns {dataset: "HxWxC"} of (model, dataset) pairs; raises UsageError where these do not fit."""
    from pipeline.data.load import load
    from pipeline.models import registry
    from pipeline.models.classifier import check_input_shape
    shapes = {}
    extension.load(config.data.extension)
    for model, dataset in pairs:
        registry.parse_options(model, config.model.model_options)
        if dataset not in shapes:
            data = config.replace(dataset=dataset).data
            shapes[dataset] = load(data, config.training.batch_size, console).image_shape
        *size, channels = shapes[dataset]
        check_input_shape(registry.model_class(model), model,
                          (*size, registry.wanted_channels(model, channels)))
    return {dataset: "x".join(map(str, shape)) for dataset, shape in shapes.items()}


def measure(order: dict[str, Any], config: ExperimentConfig, cluster: Cluster | None) -> dict[str, Any]:
    """Builds the experiment as `mirrorline train` does and measures its step; returns the figures of the cell."""
    from pipeline.distributed import devices
    from pipeline.distributed.agreement import lost_peers
    from pipeline.training.experiment import compose, start
    report = (lambda text: None) if cluster and cluster.rank else (lambda text: report_phase(order, text))
    report("starting")
    # Quiet: the report covers its warnings about slow precisions and shared cores with measured figures.
    strategy, source = start(config, Console(quiet=True), cluster, json.dumps(order, sort_keys=True))
    from pipeline.benchmark.measure import Extent
    from pipeline.benchmark.measure import measure as measure_experiment
    from pipeline.distributed.input_distribution import uses_gpus
    report("building")
    with lost_peers(cluster):
        experiment = compose(config, source, strategy)
        found = measure_experiment(experiment, Extent(**order["extent"]), report)
    kind, notes = "GPU" if uses_gpus(strategy) else "CPU", []
    if found["applied_share"] < 0.99:
        notes.append(f"only {found['applied_share']:.0%} of the steps had a finite gradient and were applied")
    if experiment.resident:
        notes.append("with --cache=device a step makes its own batch: gathering and augmentation are in its rest")
    emulated = devices.check_precision(config.runtime.precision, kind, True, cpu_features()) is not None
    return {**found, "device": kind, "emulated": emulated, "note": "\n".join(notes) or None}


class PhaseConsole(Console):
    """A Console whose lines are the phase that the waiting process shows."""

    def __init__(self, order):
        super().__init__(quiet=True)
        self._order = order

    def info(self, text: str) -> None:
        """Reports a phase."""
        report_phase(self._order, text)


def report_phase(order: Mapping[str, Any], text: str) -> None:
    """Writes the current phase for the waiting process."""
    with open(order["phase"], "w", encoding="utf-8") as file:
        file.write(text)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
