"""The metadata of an exported model, stored with every format: its origin, its images and its outputs."""
import datetime
import os
import sys
from collections.abc import Mapping
from typing import Any

import keras
import tensorflow as tf

from pipeline.dataset_name import without_path
from pipeline.files import plain
from pipeline.models import registry
from pipeline.models.identity import weights_sha256

FORMAT_VERSION = 1
PLACES = ("workdir", "data_dir", "cache_dir")  # Options that name folders of the machine it was trained on.


def metadata(trained: Any, *, version: str, result: Mapping | None = None, weights: str = "as trained",
             created: datetime.datetime | None = None) -> dict:
    """Describes a trained model for users of its export, who do not have its run.

    Args:
      trained: TrainedModel.
      version: of Mirrorline, as text.
      result: content of result.json of its run, or None.
      weights: which weights of the checkpoints these are, in words.
      created: datetime with a time zone; default now.

    Returns:
      A dict of JSON types:
        format_version: of this dict.
        created: time in UTC, ISO 8601. mirrorline, tensorflow, keras, python: versions.
        model, model_options, batch_norm_momentum: what registry.create takes. parameters: how many.
        class_names: in the order of the probabilities. image_shape: [H, W, C] of the images that it takes.
        preprocessing: see `preprocessing`.
        precision: {"trained", "exported"}.
        checkpoint: {"step", "steps": of all checkpoints that the weights are the mean of, latest first, "weights": in
          words}.
        weights_sha256: over every variable of the exported model, in order, as in result.json.
        data: {"name", "fingerprint", "num_train", "num_validation", "num_test"}.
        config: {option: value} of the run, without the paths of its machine.
        trained_with: versions and replicas of the run.
        initialization: the weights it started from (--initialize_from): {"file": its name, "form", "sha256",
          "loaded": how many variables, "fresh", "unused": names}, or None.
        frozen: variables that were not trained (--freeze): {"patterns", "variables": names, "parameters": how many
          numbers, "trained_parameters"}, or None; with --unfreeze_at those at first, "unfreeze_at" has those after each
          "step".
        metrics: {"run": result}; proof: see pipeline.export.proof, once the export is verified.
    """
    stored, config = trained.stored, trained.stored["config"]
    created = (created or datetime.datetime.now(datetime.UTC)).astimezone(datetime.UTC)
    data = {key: stored["data"][key] for key in ("fingerprint", "num_train", "num_validation", "num_test")}
    kept = {name: value for name, value in config.items() if name not in PLACES}
    return plain({
        "format_version": FORMAT_VERSION, "created": created.isoformat(timespec="seconds"), "mirrorline": version,
        "tensorflow": tf.__version__, "keras": keras.__version__, "python": sys.version.split()[0],
        "model": trained.config.model.model, "model_options": trained.config.model.model_options,
        "batch_norm_momentum": trained.config.model.batch_norm_momentum,
        "parameters": trained.model.count_params(), "class_names": trained.class_names,
        "image_shape": trained.image_shape, "preprocessing": preprocessing(trained),
        "precision": {"trained": config["precision"], "exported": trained.config.runtime.precision},
        "checkpoint": {"step": trained.step, "steps": trained.steps, "weights": weights},
        "weights_sha256": weights_sha256(trained.model), "data": {"name": without_path(stored["data"]["name"]), **data},
        "config": {**kept, "dataset": without_path(config["dataset"]),
                   "initialize_from": _last_part(config.get("initialize_from")),
                   "extension": [os.path.basename(name) for name in config.get("extension") or ()]},
        "trained_with": {**(stored.get("versions") or {}), "replicas": stored.get("num_replicas")},
        "initialization": initialization(stored),
        "frozen": {"patterns": config["freeze"], **stored["frozen"]} if stored.get("frozen") else None,
        "metrics": {"run": result},
    })


def initialization(stored: Mapping) -> dict | None:
    """Returns the entry of config.json about the weights that a run started from, without paths, or None."""
    found = stored.get("initialization")
    return found and {"file": _last_part(found["file"]),
                      **{key: found[key] for key in ("form", "sha256", "loaded", "fresh", "unused")}}


def _last_part(path: str | None) -> str | None:
    """Returns the name of a file or folder without the folders of its machine; None where there is none."""
    return path and os.path.basename(os.path.normpath(path))


def preprocessing(trained: Any) -> dict:
    """Returns the preprocessing of an image [H, W, C] before the layers of the model, in this order.

    {"resize": {"height", "width", "policy": stretch, crop:PART or pad, "method"}, "scale": factor of uint8 values,
    "mean", "deviation": of values in [0, 1], a number for each channel, or None, "channels": of the layers' input, a
    single one being repeated, "input_range": to which values in [0, 1] are brought at last, see
    pipeline.preprocessing.INPUT_RANGES}. Images of another size are resized before they are given to the model; the
    rest is inside every format but the weights.
    """
    height, width, channels = trained.image_shape
    settings = trained.inference.settings
    return {"resize": {"height": height, "width": width, "policy": trained.preprocessing.resize,
                       "method": trained.preprocessing.method},
            "scale": 1 / 255, "mean": settings.image_mean, "deviation": settings.image_std,
            "channels": registry.wanted_channels(trained.config.model.model, channels),
            "input_range": settings.input_range}
