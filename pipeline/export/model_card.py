"""MODEL_CARD.md: what a person should know of a model before using it, in the form of Hugging Face's model cards.

The front matter is that of https://huggingface.co/docs/hub/model-cards.
"""
import numpy as np
from sklearn.metrics import confusion_matrix

from pipeline.config import options
from pipeline.metrics import classification, intervals
from pipeline.metrics.evaluation import CALIBRATION_BINS, calibration_error
from pipeline.options import FREE
from pipeline.run_directory import LENGTH, length
from pipeline.templates import render

MOST_CLASSES = 100  # Rows of the table of classes; of more, those with the lowest F1.
MOST_NAMES = 20
MOST_PAIRS = 10
ALWAYS = ("model", "optimizer", "learning_rate", "schedule", "batch_size", "precision", "seed")
LIBRARIES = {"keras": "keras", "litert": "litert", "onnxruntime": "onnx"}  # By the Form's runtime.


def figures(probabilities, labels, names):
    """Evaluates a form on a split.

    Args:
      probabilities: float [N, classes], of the form.
      labels: int [N].
      names: class names, in the order of the probabilities.

    Returns:
      {"examples", "accuracy", "low", "high": its 95% interval (Wilson), "calibration_error": expected, in [0, 1],
      "per_class": [{"name", "precision", "recall", "f1", "support"}] of classes with examples, "confused_pairs": see
      classification.confused_pairs}.
    """
    predicted, count = probabilities.argmax(axis=1), len(labels)
    hit, found = predicted == labels, classification.per_class(labels, predicted, len(names))
    low, high = intervals.wilson(hit.sum(), count)
    return {
        "examples": count, "accuracy": float(hit.mean()), "low": low, "high": high,
        "calibration_error": calibration_error(probabilities.max(axis=1).astype(np.float64), hit),
        "per_class": [{"name": name, **{key: found[key][i].item() for key in classification.PER_CLASS}}
                      for i, name in enumerate(names) if found["support"][i]],
        "confused_pairs": classification.confused_pairs(
            confusion_matrix(labels, predicted, labels=np.arange(len(names))), names, MOST_PAIRS)}


def model_card(form, metadata, found, records, split="test"):
    """Writes the card of one form.

    Args:
      form: Form.
      metadata: see metadata.metadata.
      found: `figures` of this form.
      records: {form name: what is known of it, see run.export} of all forms of this export.
      split: name of the split that the figures are of.

    Returns:
      The text, Markdown under YAML.
    """
    known, classes = metadata["class_names"], found["per_class"]
    lowest = sorted(classes, key=lambda one: one["f1"])[:MOST_CLASSES]
    run = metadata["metrics"]["run"] or {}
    return render(
        __package__, "model_card.md", form=form, metadata=metadata, found=found, split=split,
        data=metadata["data"], dataset=dataset_name(metadata), library=LIBRARIES.get(form.runtime),
        names=known[:MOST_NAMES], classes=classes if len(classes) <= MOST_CLASSES else lowest, bins=CALIBRATION_BINS,
        optimistic=run.get("selected_on") == split
        and (run.get("best") or {}).get("step") == metadata["checkpoint"]["step"],
        forms=[(name, size(record["bytes"]), record["proof"]) for name, record in records.items()
               if record.get("proof") and record["proof"]["holds"]],
        settings=settings(metadata), begun=metadata["initialization"], frozen=metadata["frozen"], shown=_shown,
        kind=form.name.partition("_")[0] if form.runtime == "litert" else form.name,
        quantized=form.name == "tflite_int8", shape=metadata["image_shape"],
        extensions=metadata["config"].get("extension") or () if form.runtime == "keras" else ())


def dataset_name(metadata):
    """Returns the name of the data set as a person would say it."""
    return metadata["data"]["name"].removeprefix("folder:")


def settings(metadata):
    """Returns {setting: text} of what the model was trained with, without those that have their defaults."""
    values, known, checkpoint = metadata["config"], options(), metadata["checkpoint"]
    changed = [name for name, field in known.items() if name in values and name not in (*ALWAYS, *LENGTH, "dataset")
               and field.metadata["resume"] != FREE and values[name] != _plain(field.default)]
    return {"steps": f"{checkpoint['step']:,} ({checkpoint['weights']})", "length asked for": length(values),
            "replicas": str(metadata["trained_with"].get("replicas") or 1),
            **{name: _shown(values[name]) for name in (*ALWAYS, *changed) if name in values}}


def size(count):
    """Returns a number of bytes as text."""
    return f"{count / 1e6:,.2f} MB" if count >= 1e5 else f"{count / 1e3:,.1f} kB"


def _plain(value):
    return list(value) if isinstance(value, tuple) else value


def _shown(value):
    if isinstance(value, bool):
        return "on" if value else "off"
    return ", ".join(map(str, value)) if isinstance(value, (list, tuple)) else str(value)
