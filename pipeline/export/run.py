"""One export from its claim to its publication: write every form, prove each in a fresh process, publish what holds."""
import dataclasses
import os
import shutil

import numpy as np
from scipy.special import softmax

from pipeline.console import STANDARD
from pipeline.data.stream import examples, image_batches
from pipeline.errors import RunFailure, UsageError
from pipeline.export import fresh_process, latency
from pipeline.export.formats import FORMS
from pipeline.export.model_card import figures, model_card
from pipeline.export.proof import prove
from pipeline.export.publish import REPORTS, claimed
from pipeline.export.tables import proof_page
from pipeline.files import no_room, write_json, write_text
from pipeline.paths import PATTERN

CALIBRATION_IMAGES = 256
ALONE = 256  # Images, those that the model is least sure of, that it is asked about one by one.
IMAGES = "images.npy"  # In the folder of the report as long as forms are judged on them.


@dataclasses.dataclass(frozen=True)
class Exported:
    """What came of an export.

    Attributes:
      version: int.
      report: what proof.json holds: {"version", "output", "examples", "split": its name, "live_accuracy", "rounding":
        see `rounding`, "live_latency": see latency.summaries, "metadata", "forms": {form name: {"path": where its file
        or folder is, "bytes", "published", "problems": why not, [sentence], "proof": see proof.Proof.record, None where
        it could not be judged, "latency": see latency.summaries, "runtime", "threads", "load_seconds"}}}.
      folder: the report's folder, None where no form is published.
      replaced: paths of unproved leftovers that were removed.
    """

    version: int
    report: dict
    folder: str | None
    replaced: list

    @property
    def failed(self):
        """Names of the forms that are not published."""
        return [name for name, record in self.report["forms"].items() if not record["published"]]


def export(trained, source, names, output, metadata, batch_sizes=(), console=STANDARD):
    """Exports a trained model.

    Args:
      trained: TrainedModel whose model computes in float32.
      source: Source of its data: forms are proved on its test split, or validation where it has none, and calibrated on
        its training split.
      names: of the forms, keys of FORMS.
      output: folder of all its exports, see pipeline.export.publish.
      metadata: see pipeline.export.metadata.
      batch_sizes: for which latency is measured; none: not at all.
      console: where progress is reported.

    Returns:
      Exported. Forms that could not be written, do not load, or are beyond their bounds are not published.

    Raises:
      UsageError: there is no example to prove it on.
      RunFailure: the live model's outputs are not numbers, or the disk is full: nothing is published then.
    """
    if not source.final.num_examples:
        raise UsageError(f"the {source.final.name} split of {source.name} has no examples: an export cannot be proved "
                         "without any")
    for line in about(metadata):
        console.info(line)
    if "saved_model" in names and PATTERN.intersection(os.path.abspath(output)):
        console.info("note    TensorFlow takes brackets, backslashes, * and ? in a path for a pattern: move the "
                     "SavedModel to a path without them before others load it")
    try:
        with claimed(output, names) as staging:
            return Export(trained, source, names, staging, metadata, batch_sizes, console).run()
    except Exception as error:
        if not no_room(error):
            raise
        raise RunFailure(f"the disk is full: nothing of this export is published in {output}; make room and run the "
                         "same command again") from error


def about(metadata):
    """Yields lines about what is exported."""
    checkpoint, precision = metadata["checkpoint"], metadata["precision"]
    yield f"model   {metadata['model']} at step {checkpoint['step']:,}, {checkpoint['weights']}"
    if precision["trained"] != precision["exported"]:
        yield f"note    it was trained in {precision['trained']}; it is exported in {precision['exported']}"


class Export:
    """The state of one export while it is made."""

    def __init__(self, trained, source, names, staging, metadata, batch_sizes, console):
        """Args: those of `export`; staging: publish.Staging instead of the output."""
        self.trained, self.source, self.staging, self.metadata = trained, source, staging, metadata
        self.console, self.batch_sizes, self.images = console, batch_sizes, os.path.join(staging.report, IMAGES)
        self.calibration, self.figures = None, {}
        self.records = {name: {"path": None, "bytes": None, "published": False, "problems": [], "proof": None,
                               "latency": {}} for name in names}

    def run(self):
        """Does everything; returns Exported."""
        self.live, self.labels = judge_live(self.trained, self.source.final, self.images)
        self.rounding = rounding(self.trained, self.live, np.load(self.images, mmap_mode="r"))
        if "tflite_int8" in self.records:
            self.calibration = calibration_images(self.source.train)
        for name, record in self.records.items():
            if self.write(FORMS[name], record):
                self.judge(FORMS[name], record)
        live = latency.live_record(self.trained, np.load(self.images, mmap_mode="r"), self.batch_sizes)
        os.remove(self.images)
        good = [name for name, record in self.records.items() if not record["problems"]]
        report = self.describe(good, live)
        self.staging.publish(good)
        return Exported(self.staging.version, report, self.staging.published(REPORTS) if good else None,
                        self.staging.replaced)

    def path(self, form):
        """Returns the path of a form's file or folder until it is published."""
        return os.path.join(self.staging.folder(form.name), form.file).rstrip(os.sep)

    def write(self, form, record):
        """Writes a form under its temporary name; returns whether it could be."""
        self.console.info(f"write   {form.name}")
        folder, path = self.staging.folder(form.name), self.path(form)
        try:
            form.write(self.trained, path, self.metadata, self.calibration)
        except UsageError as error:
            shutil.rmtree(folder)
            record["problems"].append(str(error))
            return False
        record["bytes"] = bytes_of(path)
        write_json(os.path.join(folder, "metadata.json"), self.metadata)
        return True

    def judge(self, form, record):
        """Judges a form in a fresh process and compares it with the live model."""
        self.console.info(f"prove   {form.name} in a fresh process")
        try:
            found = fresh_process.judge(form, self.staging.folder(form.name), self.images, self.batch_sizes)
        except RunFailure as error:
            record["problems"].append(str(error))
            return
        proof = prove(form.bounds, self.live, found.probabilities, self.labels, self.rounding)
        record["problems"] += proof.violations
        record.update(proof=proof.record(form.bounds), latency=found.latencies, threads=found.threads,
                      runtime=found.runtime, load_seconds=round(found.load_seconds, 3))
        if proof.holds:
            self.figures[form.name] = figures(found.probabilities, self.labels, self.metadata["class_names"])

    def describe(self, good, live):
        """Writes what goes with the forms and the report; returns what proof.json holds."""
        for name, record in self.records.items():
            record["published"] = name in good
            folder = self.staging.published(name) if name in good else self.staging.folder(name)
            record["path"] = os.path.join(folder, FORMS[name].file).rstrip(os.sep)
        output, count = self.staging.output, len(self.labels)
        report = {"version": self.staging.version, "output": os.path.abspath(output), "examples": count,
                  "split": self.source.final.name,
                  "live_accuracy": float((self.live.argmax(axis=1) == self.labels).mean()),
                  "rounding": self.rounding, "live_latency": live["latency"], "metadata": self.metadata,
                  "forms": self.records}
        proofs = {name: record["proof"] for name, record in self.records.items() if record["published"]}
        for name, record in self.records.items():
            folder = self.staging.folder(name)
            if os.path.isdir(folder):
                write_json(os.path.join(folder, "proof.json"), {"version": report["version"], "form": name, **record})
            if record["published"]:
                whole = {**self.metadata, "proof": proofs}
                write_json(os.path.join(folder, "metadata.json"), whole)
                write_text(os.path.join(folder, "MODEL_CARD.md"),
                           model_card(FORMS[name], whole, self.figures[name], self.records, report["split"]))
        self.write_report(report)
        return report

    def write_report(self, report):
        """Writes proof.json, proof.md and latency.png."""
        write_json(os.path.join(self.staging.report, "proof.json"), report)
        write_text(os.path.join(self.staging.report, "proof.md"), proof_page(report))
        measured = {latency.LIVE: {"bytes": None, "latency": report["live_latency"]}, **report["forms"]}
        if report["live_latency"]:
            about = report["metadata"]
            latency.draw(measured, os.path.join(self.staging.report, "latency.png"),
                         f"{about['model']} at step {about['checkpoint']['step']:,}")


def judge_live(trained, split, path):
    """Runs the live model on a split and keeps its images in a file, so that every form sees the same.

    Args:
      trained: TrainedModel.
      split: Split with at least one example.
      path: .npy file that is written, uint8 [N, H, W, C].

    Returns:
      (float32 [N, classes] probabilities, int32 [N] labels).

    Raises:
      RunFailure: outputs that are not numbers.
    """
    logits, labels = [], []
    with open(path, "wb") as file:
        np.lib.format.write_array_header_1_0(file, {"descr": "|u1", "fortran_order": False,
                                                    "shape": (split.num_examples, *trained.image_shape)})
        for images, found in image_batches(split, trained.inference.settings.batch_size).as_numpy_iterator():
            file.write(np.ascontiguousarray(images).tobytes())
            logits.append(trained.logits(images))
            labels.append(found)
    logits = np.concatenate(logits)
    if not np.isfinite(logits).all():
        raise RunFailure(f"the model at step {trained.step} gives outputs that are not finite; --checkpoint=best may "
                         "be one of before that")
    return probabilities(logits), np.concatenate(labels)


def probabilities(logits):
    """Returns the softmax of logits [n, classes], float32, computed in float64."""
    return softmax(logits.astype(np.float64), axis=1).astype(np.float32)


def rounding(trained, live, images):
    """Returns how much the live model's probabilities of an image alone differ from those among others, at most.

    Args:
      trained: TrainedModel.
      live: float32 [N, classes], its probabilities in batches.
      images: uint8 [N, H, W, C].
    """
    unsure = np.argsort(live.max(axis=1), kind="stable")[:ALONE]
    alone = probabilities(np.concatenate([trained.logits(images[i:i + 1]) for i in unsure]))
    return float(np.abs(alone.astype(np.float64) - live[unsure]).max())


def calibration_images(split):
    """Returns uint8 [n, H, W, C]: images evenly spread over a split, so that in a sorted one every class is there."""
    count = min(split.num_examples, CALIBRATION_IMAGES)
    return examples(split, np.arange(count) * split.num_examples // max(count, 1))[0]


def bytes_of(path):
    """Returns the bytes of a file, or of all files in a folder."""
    if os.path.isfile(path):
        return os.path.getsize(path)
    return sum(os.path.getsize(os.path.join(parent, name)) for parent, _, names in os.walk(path) for name in names)
