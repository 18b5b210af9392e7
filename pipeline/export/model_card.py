"""MODEL_CARD.md, after https://huggingface.co/docs/hub/model-cards."""
from collections.abc import Mapping, Sequence

import numpy as np
from markupsafe import Markup
from sklearn.metrics import confusion_matrix

from pipeline import dataset_name as names_of_data
from pipeline.config import options
from pipeline.export.export_format import ExportFormat
from pipeline.metrics import classification, intervals
from pipeline.metrics.evaluation import CALIBRATION_BINS, calibration_error
from pipeline.options import FREE
from pipeline.run_directory import LENGTH, length
from pipeline.templates import code, render, render_markdown

MOST_CLASSES = 100  # Rows of the table of classes; of more, those with the lowest F1.
MOST_NAMES = 20
MOST_PAIRS = 10
ALWAYS = ("model", "optimizer", "learning_rate", "schedule", "batch_size", "precision", "seed")


def figures(probabilities: np.ndarray, labels: np.ndarray, names: Sequence[str]) -> dict:
    """Returns the metrics of an exported model on a split.

    Args:
      probabilities: float [N, classes], of the exported model.
      labels: int [N].
      names: class names, in the order of the probabilities.

    Returns:
      {"examples", "accuracy", "low", "high": its 95% interval (Wilson), "calibration_error": expected, in [0, 1],
      "per_class": [{"name", "precision", "recall", "f1", "support"}] of classes with examples, "confused_pairs": see
      classification.confused_pairs}.
    """
    predicted, count = probabilities.argmax(axis=1), len(labels)
    correct, found = predicted == labels, classification.per_class(labels, predicted, len(names))
    low, high = intervals.wilson(correct.sum(), count)
    return {
        "examples": count, "accuracy": float(correct.mean()), "low": low, "high": high,
        "calibration_error": calibration_error(probabilities.max(axis=1).astype(np.float64), correct),
        "per_class": [{"name": name, **{key: found[key][i].item() for key in classification.PER_CLASS}}
                      for i, name in enumerate(names) if found["support"][i]],
        "confused_pairs": classification.confused_pairs(
            confusion_matrix(labels, predicted, labels=np.arange(len(names))), names, MOST_PAIRS)}


def model_card(export_format: ExportFormat, metadata: dict, found: dict, records: Mapping[str, dict],
               split: str = "test") -> str:
    """Returns the model card of one format: Markdown with YAML front matter."""
    known, classes, shape = metadata["class_names"], found["per_class"], metadata["image_shape"]
    lowest = sorted(classes, key=lambda one: one["f1"])[:MOST_CLASSES]
    run = metadata["metrics"]["run"] or {}
    return render(
        __package__, "model_card.md", format=export_format, metadata=metadata, found=found, split=split,
        data=metadata["data"], dataset=dataset_name(metadata), names=known[:MOST_NAMES],
        classes=classes if len(classes) <= MOST_CLASSES else lowest, bins=CALIBRATION_BINS,
        optimistic=run.get("selected_on") == split
        and (run.get("best") or {}).get("step") == metadata["checkpoint"]["step"],
        formats=[(name, size(record["bytes"]), record["proof"]) for name, record in records.items()
                 if record.get("proof") and record["proof"]["holds"]],
        settings=settings(metadata), begun=metadata["initialization"], frozen=metadata["frozen"], shown=_shown,
        shape=shape, usage=render_markdown(
            export_format.usage, shape=shape, array=", ".join(map(str, shape)), runtime=export_format.runtime,
            imports=_imports(export_format, metadata["config"].get("extension") or ())))


def _imports(export_format: ExportFormat, extensions: Sequence[str]) -> str:
    """Returns the sentence about extensions that have to be imported to load a format, or ""."""
    if not extensions or not export_format.needs_mirrorline:
        return ""
    return Markup(" Import ") + Markup(", ").join(map(code, extensions)) + " first, where the model is defined."


def dataset_name(metadata: dict) -> str:
    """Returns the name of the data set without its kind."""
    name = metadata["data"]["name"]
    return names_of_data.split(name)[1] if names_of_data.has_path(name) else name


def settings(metadata: dict) -> dict[str, str]:
    """Returns {setting: text} of the training, without settings that have their defaults."""
    values, known, checkpoint = metadata["config"], options(), metadata["checkpoint"]
    changed = [name for name, field in known.items() if name in values and name not in (*ALWAYS, *LENGTH, "dataset")
               and field.metadata["resume"] != FREE and values[name] != _plain(field.default)]
    return {"steps": f"{checkpoint['step']:,} ({checkpoint['weights']})", "length asked for": length(values),
            "replicas": str(metadata["trained_with"].get("replicas") or 1),
            **{name: _shown(values[name]) for name in (*ALWAYS, *changed) if name in values}}


def size(count: int) -> str:
    """Returns a number of bytes as text."""
    return f"{count / 1e6:,.2f} MB" if count >= 1e5 else f"{count / 1e3:,.1f} kB"


def _plain(value: object) -> object:
    return list(value) if isinstance(value, tuple) else value


def _shown(value: object) -> str:
    if isinstance(value, bool):
        return "on" if value else "off"
    return ", ".join(map(str, value)) if isinstance(value, (list, tuple)) else str(value)
