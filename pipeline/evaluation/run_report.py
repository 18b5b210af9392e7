"""The report on a run: comparison with other runs, facts about run and machine, and its files."""
import datetime
import importlib.metadata
import os
from typing import Any

import tensorflow as tf

from pipeline import config as configuration
from pipeline.data.source import Split
from pipeline.data.stream import examples
from pipeline.distributed import machine
from pipeline.errors import RunFailure
from pipeline.evaluation.evaluator import Evaluator, RunEvaluation
from pipeline.evaluation.history import cost
from pipeline.evaluation.page.document import write_page
from pipeline.evaluation.report import EvaluatedRun, make_report, name_files, named_examples
from pipeline.evaluation.selection import WeightSelection
from pipeline.files import write_json
from pipeline.models.identity import weights_sha256
from pipeline.monitoring import operations
from pipeline.monitoring.goodput import summarize

PLACE = ("workdir", "verbosity", "tensorboard")  # Options that tell nothing about the model.


def report_runs(evaluator: Evaluator, first: RunEvaluation, command: str) -> dict[str, Any]:
    """Evaluates the runs to compare with; returns the content of report.json.

    Raises:
      RunFailure: the outputs of another run are not finite.
    """
    evaluated = []
    for run in evaluator.runs:
        found = first if run is first.run else evaluator.evaluate(run)
        if found.predictions is None or not found.predictions.finite:
            raise RunFailure(found.not_finite())
        evaluated.append(EvaluatedRun(run.directory.path, found.evaluation, found.predictions, run.records))
    described = describe(first, evaluator.weights, evaluator.split, command)
    report = make_report(evaluated[0], evaluator.source.class_names, evaluator.split.name, described, first.held_out,
                         evaluated[1:])
    name_files(report, evaluator.split.files)
    return report


def write_report(report: dict[str, Any], split: Split, folder: str) -> str:
    """Writes report.json and index.html into a folder, which is made; returns the path of the page."""
    os.makedirs(folder, exist_ok=True)
    write_json(os.path.join(folder, "report.json"), report)
    index, page = named_examples(report), os.path.join(folder, "index.html")
    images, _ = examples(split, index)
    write_page(report, dict(zip(index.tolist(), images, strict=True)), page)
    return page


def describe(found: RunEvaluation, weights: WeightSelection, split: Split, command: str) -> dict[str, Any]:
    """Returns what report.json holds about run and machine: {"created", "command", "run", "goodput", "cost"}."""
    run, experiment, latest = found.run, found.experiment, found.checkpoints[0]
    result, values = run.directory.result or {}, run.stored["config"]
    default = configuration.defaults()
    goodput = result.get("goodput") or summarize(run.directory.file("launches.jsonl"))
    examples_seen = result.get("examples_seen") or latest.step * values["batch_size"]
    return {
        "created": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"), "command": command,
        "run": {
            "workdir": run.directory.path, "dataset": run.stored["data"]["name"], "model": values["model"],
            "parameters": experiment.state.model.count_params(), "step": latest.step,
            "checkpoint": os.path.basename(latest.path), "asked_for": weights.checkpoint, "weights": found.weights,
            "test_time_augmentation": len(found.views), "views": [str(view) for view in found.views],
            "split": split.name, "examples": split.num_examples, "seed": values["seed"],
            "weights_sha256": weights_sha256(experiment.state.model), "status": result.get("status", "not finished"),
            "selected_on": experiment.watched.name, "config": values,
            "changed": {name: value for name, value in values.items() if name not in PLACE
                        and value != (list(default[name]) if isinstance(default[name], tuple) else default[name])},
            "versions": {**machine.versions(), **{name: importlib.metadata.version(name)
                                                  for name in ("scipy", "scikit-learn")}},
            "trained_with": run.stored.get("versions"), "machine": machine.machine()},
        "goodput": goodput,
        "cost": cost(goodput, examples_seen, run.stored.get("device"), forward_operations(experiment))}


def forward_operations(experiment: Any) -> float | None:
    """Returns the floating-point operations of a forward pass for one example, None where they cannot be counted."""
    images = tf.TensorSpec((1, *experiment.source.preprocessing.image_shape), tf.uint8)
    return operations.count(experiment.steps.inference.logits.get_concrete_function(images).graph)
