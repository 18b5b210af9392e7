"""Reports as report.json holds them, of models that are made up: their logits are drawn, all else follows from them."""
import json

import numpy as np
from scipy.special import log_softmax

from pipeline.evaluation.probabilities import Predictions
from pipeline.evaluation.report import EvaluatedRun, make_report, named_examples
from pipeline.files import plain
from pipeline.metrics import evaluation as metrics

TEN = tuple("0123456789")
HUNDRED = tuple(f"{kind} {animal}" for kind in ("wild", "small", "old", "spotted", "white")
                for animal in ("fox", "bear", "wolf", "owl", "crane", "newt", "ray", "shrew", "hare", "lynx", "mole",
                               "otter", "viper", "gecko", "heron", "stork", "toad", "trout", "wasp", "yak"))
SECONDS = {"steps": 18.204, "input": 0.311, "lost": 0.0, "compiling": 4.87, "saving": 0.664, "evaluating": 0.914,
           "reporting": 0.402, "profiling": 0.0, "starting": 5.118, "other": 0.073}


def evaluated(names, count, seed=0, skill=3.8, name="runs/digits-cnn"):
    """Returns the EvaluatedRun of a model that mostly takes a class for itself, and at times for the next ones.

    Args:
      names: class names.
      count: number of examples; the labels are the same for every seed.
      seed: of what the model gets wrong.
      skill: by how much the logit of the right class is larger, in deviations of the others.
      name: directory of its run.
    """
    classes = len(names)
    labels = np.random.RandomState(1).permutation(np.arange(count) % classes)
    draw = np.random.RandomState(100 + seed)
    away = (np.arange(classes) - labels[:, None]) % classes
    likeness = np.where(away == 0, skill, np.where(away <= 2, 0.35 * skill / np.maximum(away, 1), 0.0))
    logits = (1.9 * (likeness + draw.normal(size=(count, classes)))).astype(np.float32)
    predictions = Predictions(logits, labels)
    logs = log_softmax(logits.astype(np.float64), axis=1)
    own = logs[np.arange(count), labels]
    rows = np.stack([labels, predictions.predicted, np.exp(logs.max(1)), -own,
                     (logs > own[:, None]).sum(1)], axis=1).astype(np.float32)
    evaluation = metrics.evaluation([-own.sum(), predictions.correct.sum(), count], rows, classes)
    return EvaluatedRun(name, evaluation, predictions, records(evaluation, classes, seed))


def records(evaluation, classes, seed=0, steps=539, epochs=12):
    """Returns metrics.jsonl of a run with a one-cycle schedule that ends at an evaluation."""
    draw, found = np.random.RandomState(seed), []
    for step in range(1, steps + 1):
        done = step / steps
        left = np.exp(-7 * done)
        found.append({"kind": "train", "step": step,
                      "loss": float((np.log(classes) * left + 1.2 * evaluation.loss) * np.exp(0.25 * draw.normal())),
                      "accuracy": float(np.clip(evaluation.accuracy * (1 - left) + 0.04 * draw.normal(), 0, 1)),
                      "learning_rate": float(5e-4 * np.sin(np.pi * done) ** 2)})
    for epoch in range(1, epochs + 1):
        left = np.exp(-8 * epoch / epochs) - np.exp(-8)
        found.append({"kind": "evaluation", "split": "test", "step": steps * epoch // epochs,
                      "loss": float(evaluation.loss + np.log(classes) * left),
                      "accuracy": float(evaluation.accuracy * (1 - left))})
    return found


def described(first, **run):
    """Returns the facts about a run and its machine; `run` replaces facts about the run."""
    config = {"dataset": "digits", "data_dir": None, "validation_split": 0.0, "augment": ["crop:3", "rotate:10"],
              "model": "cnn", "model_options": [], "optimizer": "adam", "learning_rate": 0.0005,
              "schedule": "one-cycle", "weight_decay": 0.0, "epochs": 12.0, "steps": None, "batch_size": 32, "seed": 0,
              "workdir": None, "precision": "float32", "replicas": 0, "deterministic": False, "xla": "auto"}
    return {
        "created": "2026-03-14T09:26:53Z", "command": f"mirrorline evaluate --workdir={first.name}",
        "run": {"workdir": first.name, "dataset": "digits", "model": "cnn", "parameters": 1_097_098, "step": 539,
                "checkpoint": "ckpt-539", "weights": "as trained", "test_time_augmentation": 1, "views": ["as it is"],
                "asked_for": "latest", "split": "test",
                "examples": first.predictions.examples, "seed": 0, "weights_sha256": "7fee798b97c7b66d" * 4,
                "status": "finished", "selected_on": "test", "config": config,
                "changed": {"augment": ["crop:3", "rotate:10"], "schedule": "one-cycle"},
                "versions": {"mirrorline": "0.5.0", "tensorflow": "2.21.0", "keras": "3.15.1", "python": "3.11.7"},
                "trained_with": {"mirrorline": "0.5.0", "tensorflow": "2.21.0", "python": "3.11.7"},
                "machine": {"cpu": "Intel(R) Xeon(R) Platinum 8481C", "cores": 2, "memory_gib": 23.4, "gpus": [],
                            "system": "Linux-6.1-x86_64"}, **run},
        "goodput": {"share": round(SECONDS["steps"] / sum(SECONDS.values()), 4), "seconds": SECONDS, "launches": 2,
                    "steps_repeated": 12, "rollbacks": 0},
        "cost": {"wall_seconds": round(sum(SECONDS.values()), 3), "core_hours": 0.017, "examples_seen": 17_248,
                 "training_flops": 1.1e12}}


def report(names=TEN, count=360, compared=0, skill=3.8, **run):
    """Returns a whole report, as it is after reading report.json.

    Args:
      names: class names.
      count: number of examples.
      compared: number of other runs it is compared with, each a little worse than the one before.
      skill: see `evaluated`.
      run: replaces what is said of the run.
    """
    first = evaluated(names, count, skill=skill)
    others = [evaluated(names, count, 1 + i, skill - 0.8 * i, f"runs/other-{1 + i}") for i in range(compared)]
    return json.loads(json.dumps(plain(make_report(first, names, "test", described(first, **run), compared=others)),
                                 allow_nan=False))


def images(of, shape=(28, 28, 1)):
    """Returns {index: uint8 [H, W, C]} with an image of noise for every example that a report shows."""
    draw = np.random.RandomState(7)
    return {int(index): draw.randint(256, size=shape).astype(np.uint8) for index in named_examples(of)}
