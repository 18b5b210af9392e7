"""MODEL_CARD.md: what a person should know of a model before it is used, in the form of Hugging Face's model cards.

The front matter is that of https://huggingface.co/docs/hub/model-cards.
"""
import json

import numpy as np
from sklearn.metrics import confusion_matrix

from pipeline.config import options
from pipeline.export.loading import loading
from pipeline.metrics import classification, intervals
from pipeline.metrics.evaluation import CALIBRATION_BINS, calibration_error
from pipeline.options import FREE
from pipeline.quantities import counted
from pipeline.run_directory import LENGTH, length

MOST_CLASSES = 100  # Rows of the table of classes; of more, those with the lowest F1.
MOST_NAMES = 20
MOST_PAIRS = 10
ALWAYS = ("model", "optimizer", "learning_rate", "schedule", "batch_size", "precision", "seed")
LIBRARIES = {"keras": "keras", "litert": "litert", "onnxruntime": "onnx"}  # By the Form's runtime.


def figures(probabilities, labels, names):
    """Judges a form on a split.

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
    title = f"{metadata['model']} on {dataset_name(metadata)}"
    parts = [front_matter(form, metadata, found, split), f"# {title}", intended_use(metadata), data(metadata),
             measured(form, metadata, found, split), forms(form, records, split), training(metadata),
             limits(metadata, split), f"## Load it\n\n{loading(form, metadata)}", origin(metadata)]
    return "\n\n".join(parts) + "\n"


def dataset_name(metadata):
    """Returns the name of the data set as a person would say it."""
    return metadata["data"]["name"].removeprefix("folder:")


def front_matter(form, metadata, found, split):
    """Returns the YAML that Hugging Face's hub reads; strings are written as JSON, which YAML contains."""
    name, library = json.dumps(dataset_name(metadata)), LIBRARIES.get(form.runtime)
    lines = ["---", *([f"library_name: {library}"] if library else []), "pipeline_tag: image-classification", "tags:",
             "- image-classification", "- mirrorline", f"- {form.name}", "metrics:", "- accuracy", "model-index:",
             f"- name: {json.dumps(metadata['model'] + ' on ' + dataset_name(metadata))}", "  results:", "  - task:",
             "      type: image-classification", "    dataset:", f"      name: {name}", f"      type: {name}",
             f"      split: {split}", "    metrics:", "    - type: accuracy", f"      value: {found['accuracy']:.6f}",
             "---"]
    return "\n".join(lines)


def intended_use(metadata):
    """Says what goes in and what comes out."""
    names, (height, width, channels) = metadata["class_names"], metadata["image_shape"]
    kind = {1: "grey", 3: "colour"}.get(channels, f"{channels}-channel")
    listed = ", ".join(_cell(name) for name in names[:MOST_NAMES])
    more = f" and {len(names) - MOST_NAMES:,} more, listed in metadata.json" if len(names) > MOST_NAMES else ""
    return (f"## Intended use\n\nTells which of {len(names):,} classes a {kind} image of {height} x {width} pixels "
            f"shows, with a probability for each. The classes: {listed}{more}. It is meant for images like those of "
            "the data set below. For any other use, judge it on examples of that use first.")


def data(metadata):
    """Says what it was trained and judged on."""
    about = metadata["data"]
    rows = [("data set", _cell(dataset_name(metadata))), ("training examples", f"{about['num_train']:,}"),
            *([("validation examples", f"{about['num_validation']:,}")] if about["num_validation"] else []),
            *([("test examples", f"{about['num_test']:,}")] if about["num_test"] else []),
            ("classes", f"{len(metadata['class_names']):,}"),
            ("fingerprint", f"`{about['fingerprint']}`")]
    return "## Data\n\n" + table(("", ""), rows)


def measured(form, metadata, found, split):
    """Gives the figures of this form."""
    rows = sorted(found["per_class"], key=lambda c: c["f1"])[:MOST_CLASSES]
    rows = [c for c in found["per_class"] if c in rows] if len(found["per_class"]) <= MOST_CLASSES else rows
    few = (f"The {MOST_CLASSES} of {len(found['per_class']):,} classes with the lowest F1:\n\n"
           if len(found["per_class"]) > MOST_CLASSES else "")
    by_class = table(("class", "precision", "recall", "F1", "examples"), [
        (_cell(c["name"]), *(f"{c[key]:.3f}" for key in ("precision", "recall", "f1")), f"{c['support']:,}")
        for c in rows])
    pairs = [(_cell(p["true"]), _cell(p["predicted"]), f"{p['count']:,}", f"{p['share']:.1%}")
             for p in found["confused_pairs"]]
    confused = ("Most often confused:\n\n" + table(("true class", "taken for", "examples", "share of the class"), pairs)
                if pairs else f"No example of the {split} split is taken for another class.")
    return (f"## Figures\n\nOf this form (`{form.name}`), on {counted(found['examples'], 'example')}, all of the "
            f"{split} split:\n\n" + table(("figure", "value"), [
                ("accuracy", f"{found['accuracy']:.2%}"),
                ("95% interval (Wilson)", f"{found['low']:.2%} to {found['high']:.2%}"),
                (f"expected calibration error ({CALIBRATION_BINS} bins)", f"{found['calibration_error']:.4f}")])
            + _selected(metadata, split) + f"\n\n{few}{by_class}\n\n{confused}")


def _selected(metadata, split):
    """Says where the figures are too good because the checkpoint was chosen by them."""
    run = metadata["metrics"]["run"] or {}
    if run.get("selected_on") != split or (run.get("best") or {}).get("step") != metadata["checkpoint"]["step"]:
        return ""
    return (f"\n\nThis checkpoint was the best one on the {split} split itself, so these figures may be better than "
            "on new images.")


def forms(form, records, split):
    """Compares the forms of this export."""
    rows = [(name + (" (this one)" if name == form.name else ""), size(r["bytes"]), f"{r['proof']['difference']:.1e}",
             f"{r['proof']['equal']:.2%}", f"{r['proof']['accuracy']:.2%}")
            for name, r in records.items() if r.get("proof") and r["proof"]["holds"]]
    return (f"## Forms\n\nEach was loaded in a fresh process and compared with the live model on the {split} split:\n\n"
            + table(("form", "size", "largest difference of a probability", "equal predictions", "accuracy"), rows))


def training(metadata):
    """Lists the settings that made it."""
    values, known, checkpoint = metadata["config"], options(), metadata["checkpoint"]
    changed = [name for name, field in known.items() if name in values and name not in (*ALWAYS, *LENGTH, "dataset")
               and field.metadata["resume"] != FREE and values[name] != _plain(field.default)]
    rows = [("steps", f"{checkpoint['step']:,} ({checkpoint['weights']})"), ("length asked for", length(values)),
            ("replicas", str(metadata["trained_with"].get("replicas") or 1)),
            *((name, _cell(_shown(values[name]))) for name in (*ALWAYS, *changed) if name in values)]
    said = metadata["precision"]
    different = ("" if said["trained"] == said["exported"] else
                 f"\n\nIt was trained in {said['trained']}; what is exported computes in {said['exported']}.")
    return (f"## Training\n\nWith Mirrorline {metadata['mirrorline']}, {metadata['parameters']:,} "
            "parameters. Settings that are not listed have their defaults; metadata.json holds all.\n\n"
            + table(("setting", "value"), rows) + _transfer(metadata) + different)


def _transfer(metadata):
    """Says what it was made of, where it did not begin with random weights or did not train as a whole."""
    begun, frozen = metadata["initialization"], metadata["frozen"]
    lines = []
    if begun:
        anew = f"; {', '.join(map(_cell, begun['fresh']))} began anew" if begun["fresh"] else ""
        lines.append(f"It began with {counted(begun['loaded'], 'variable')} of {_cell(begun['file'])} "
                     f"({begun['form']}, SHA-256 `{begun['sha256']}`){anew}.")
    if frozen:
        lines.append(f"{frozen['parameters']:,} of its parameters were frozen ({_cell(_shown(frozen['patterns']))}); "
                     f"{frozen['trained_parameters']:,} trained.")
    return "".join(f"\n\n{line}" for line in lines)


def limits(metadata, split):
    """Says what it cannot do."""
    height, width, _ = metadata["image_shape"]
    return "\n".join([
        "## Limits", "",
        "- It knows these classes only. A picture of anything else gets one of them too, often with a high "
        "probability.",
        f"- It sees {height} x {width} pixels. Other pictures are resized to that (bilinear, antialiased) without "
        "keeping their proportions; what is small in them is lost.",
        f"- The figures are those of the {split} split of {_cell(dataset_name(metadata))}. Pictures from other "
        "sources, cameras or times may be recognized less well; that was not measured.",
        "- A probability is the model's own; how far it can be trusted is the calibration error above.",
        "- No licence is stated here: whoever passes the model on states it."])


def origin(metadata):
    """Identifies the weights."""
    return ("## Origin\n\n" + table(("", ""), [
        ("created", metadata["created"]), ("SHA-256 of the weights", f"`{metadata['weights_sha256']}`"),
        ("versions", f"Mirrorline {metadata['mirrorline']}, TensorFlow {metadata['tensorflow']}, Keras "
                     f"{metadata['keras']}, Python {metadata['python']}")]))


def size(count):
    """Returns a number of bytes as text."""
    return f"{count / 1e6:,.2f} MB" if count >= 1e5 else f"{count / 1e3:,.1f} kB"


def table(columns, rows):
    """Returns a Markdown table of rows of text."""
    lines = [f"| {' | '.join(columns)} |", "|" + "---|" * len(columns)]
    return "\n".join([*lines, *(f"| {' | '.join(row)} |" for row in rows)])


def _cell(text):
    """Returns text in which nothing is Markdown, HTML or the end of a cell."""
    text = " ".join(str(text).split()).replace("\\", "\\\\")
    for mark in "|*_`[]<>#":
        text = text.replace(mark, f"\\{mark}")
    return text


def _plain(value):
    return list(value) if isinstance(value, tuple) else value


def _shown(value):
    if isinstance(value, bool):
        return "on" if value else "off"
    return ", ".join(map(str, value)) if isinstance(value, (list, tuple)) else str(value)
