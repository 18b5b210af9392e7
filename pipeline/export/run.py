"""One export: writes every format, verifies each in a fresh process, and publishes those within their tolerance."""
import dataclasses
import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from scipy.special import softmax

from pipeline.console import STANDARD, Console
from pipeline.data.source import Source, Split
from pipeline.data.stream import examples, image_batches
from pipeline.errors import RunFailure, UsageError
from pipeline.export import fresh_process, latency
from pipeline.export.export_format import ExportFormat, find_formats
from pipeline.export.model_card import figures, model_card
from pipeline.export.proof import prove
from pipeline.export.publish import REPORTS, Staging, claimed
from pipeline.export.rounding import rounding
from pipeline.export.tables import proof_page
from pipeline.files import no_room, write_json, write_text

CALIBRATION_IMAGES = 256
IMAGES = "images.npy"  # In the folder of the report while formats are verified on them.


@dataclasses.dataclass(frozen=True)
class Exported:
    """The outcome of an export.

    Attributes:
      version: int.
      report: what proof.json holds: {"version", "output", "examples", "split": its name, "live_accuracy", "rounding":
        see `rounding`, "live_latency": see latency.summaries, "metadata", "forms": {format name: {"path": of its file
        or folder, "bytes", "published", "problems": why not, [sentence], "proof": see proof.Proof.record, None where
        it could not be run, "latency": see latency.summaries, "runtime", "threads", "load_seconds"}}}.
      folder: the report's folder, None where no format is published.
      replaced: paths of unverified leftovers that were removed.
    """

    version: int
    report: dict[str, Any]
    folder: str | None
    replaced: list[str]

    @property
    def failed(self) -> list[str]:
        """Names of the formats that are not published."""
        return [name for name, record in self.report["forms"].items() if not record["published"]]


def export(trained: Any, source: Source, names: Sequence[str], output: str, metadata: dict,
           batch_sizes: Sequence[int] = (), console: Console = STANDARD) -> Exported:
    """Exports a trained model.

    Args:
      trained: TrainedModel whose model computes in float32.
      source: Source of its data: exports are verified on its test split, or validation where it has none, and
        calibrated on its training split.
      names: of the formats.
      output: folder of all its exports, see pipeline.export.publish.
      metadata: see pipeline.export.metadata.
      batch_sizes: for which latency is measured; none: not at all.
      console: where progress is reported.

    Returns:
      Exported. Formats that could not be written, do not load, or are outside their tolerance are not published.

    Raises:
      UsageError: an unknown format, packages are missing, or the split has no examples.
      RunFailure: the trained model's outputs are not finite, or the disk is full: nothing is published then.
    """
    formats = find_formats(names)
    if not source.final.num_examples:
        raise UsageError(f"the {source.final.name} split of {source.name} has no examples: an export cannot be "
                         "verified without any")
    for line in about(metadata):
        console.info(line)
    for remark in filter(None, (one.remark(output) for one in formats.values())):
        console.info(f"note    {remark}")
    try:
        with claimed(output, names) as staging:
            return Export(trained, source, formats, staging, metadata, batch_sizes, console).run()
    except Exception as error:
        if not no_room(error):
            raise
        raise RunFailure(f"the disk is full: nothing of this export is published in {output}; make room and run "
                         "the same command again") from error


def about(metadata: dict) -> Iterator[str]:
    """Yields lines about the model that is exported."""
    checkpoint, precision = metadata["checkpoint"], metadata["precision"]
    yield f"model   {metadata['model']} at step {checkpoint['step']:,}, {checkpoint['weights']}"
    if precision["trained"] != precision["exported"]:
        yield f"note    it was trained in {precision['trained']}; it is exported in {precision['exported']}"


class Export:
    """The state of one export in progress."""

    def __init__(self, trained: Any, source: Source, formats: Mapping[str, ExportFormat], staging: Staging,
                 metadata: dict, batch_sizes: Sequence[int], console: Console):
        """Args: those of `export`; formats: {name: ExportFormat}; staging: publish.Staging of the output."""
        self.trained, self.source, self.formats, self.staging = trained, source, formats, staging
        self.metadata, self.batch_sizes, self.console = metadata, batch_sizes, console
        self.images = os.path.join(staging.report, IMAGES)
        self.calibration: np.ndarray | None = None
        self.figures: dict[str, dict] = {}
        self.records: dict[str, dict] = {
            name: {"path": None, "bytes": None, "published": False, "problems": [], "proof": None, "latency": {}}
            for name in formats}

    def run(self) -> Exported:
        """Writes, verifies and publishes."""
        self.live, self.labels = run_live(self.trained, self.source.final, self.images)
        self.rounding = rounding(self.trained, self.live, np.load(self.images, mmap_mode="r"))
        if any(one.calibrated for one in self.formats.values()):
            self.calibration = calibration_images(self.source.train)
        for name, export_format in self.formats.items():
            if self.write(export_format, self.records[name]):
                self.verify(export_format, self.records[name])
        live = latency.live_record(self.trained, np.load(self.images, mmap_mode="r"), self.batch_sizes, latency.SECONDS)
        os.remove(self.images)
        good = [name for name, record in self.records.items() if not record["problems"]]
        report = self.describe(good, live)
        self.staging.publish(good)
        return Exported(self.staging.version, report, self.staging.published(REPORTS) if good else None,
                        self.staging.replaced)

    def write(self, export_format: ExportFormat, record: dict) -> bool:
        """Writes a format under its temporary name; returns whether it could be written."""
        self.console.info(f"write   {export_format.name}")
        folder = self.staging.folder(export_format.name)
        path = os.path.join(folder, export_format.file).rstrip(os.sep)
        try:
            export_format.write_checked(self.trained, path, self.metadata, self.calibration)
        except UsageError as error:
            shutil.rmtree(folder)
            record["problems"].append(str(error))
            return False
        record["bytes"] = bytes_of(path)
        write_json(os.path.join(folder, "metadata.json"), self.metadata)
        return True

    def verify(self, export_format: ExportFormat, record: dict) -> None:
        """Runs a format in a fresh process and compares it with the trained model."""
        self.console.info(f"verify  {export_format.name} in a fresh process")
        try:
            found = fresh_process.run(export_format, self.staging.folder(export_format.name), self.images,
                                      self.batch_sizes, seconds=latency.SECONDS)
        except (RunFailure, UsageError) as error:
            record["problems"].append(str(error))
            return
        proof = prove(export_format.tolerance, self.live, found.probabilities, self.labels, self.rounding)
        record["problems"] += proof.violations
        record.update(proof=proof.record(export_format.tolerance), latency=found.latencies, threads=found.threads,
                      runtime=found.runtime, load_seconds=round(found.load_seconds, 3))
        if proof.holds:
            self.figures[export_format.name] = figures(found.probabilities, self.labels, self.metadata["class_names"])

    def describe(self, good: Sequence[str], live: dict) -> dict:
        """Writes metadata, proof and card of each format, and the report; returns what proof.json holds."""
        for name, record in self.records.items():
            record["published"] = name in good
            folder = self.staging.published(name) if name in good else self.staging.folder(name)
            record["path"] = os.path.join(folder, self.formats[name].file).rstrip(os.sep)
        report = {"version": self.staging.version, "output": os.path.abspath(self.staging.output),
                  "examples": len(self.labels), "split": self.source.final.name,
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
                write_text(os.path.join(folder, "MODEL_CARD.md"), model_card(
                    self.formats[name], whole, self.figures[name], self.records, self.source.final.name))
        self.write_report(report)
        return report

    def write_report(self, report: dict) -> None:
        """Writes proof.json, proof.md and latency.png."""
        write_json(os.path.join(self.staging.report, "proof.json"), report)
        write_text(os.path.join(self.staging.report, "proof.md"), proof_page(report))
        if report["live_latency"]:
            about = report["metadata"]
            measured = {latency.LIVE: {"bytes": None, "latency": report["live_latency"]}, **report["forms"]}
            latency.draw(measured, os.path.join(self.staging.report, "latency.png"),
                         f"{about['model']} at step {about['checkpoint']['step']:,}")


def run_live(trained: Any, split: Split, path: str) -> tuple[np.ndarray, np.ndarray]:
    """Runs the trained model on a split and writes its images to a file, so that every format gets the same.

    Returns:
      (float32 [N, classes] probabilities, int32 [N] labels).

    Raises:
      RunFailure: outputs that are not finite.
    """
    parts, labels = [], []
    with open(path, "wb") as file:
        np.lib.format.write_array_header_1_0(file, {"descr": "|u1", "fortran_order": False,
                                                    "shape": (split.num_examples, *trained.image_shape)})
        for images, found in image_batches(split, trained.inference.settings.batch_size).as_numpy_iterator():
            file.write(np.ascontiguousarray(images).tobytes())
            parts.append(trained.logits(images))
            labels.append(found)
    logits = np.concatenate(parts)
    if not np.isfinite(logits).all():
        raise RunFailure(f"the model at step {trained.step} gives outputs that are not finite; try an earlier one with "
                         "--checkpoint=best")
    return probabilities(logits), np.concatenate(labels)


def probabilities(logits: np.ndarray) -> np.ndarray:
    """Returns the softmax of logits [n, classes], float32, computed in float64."""
    return softmax(logits.astype(np.float64), axis=1).astype(np.float32)


def calibration_images(split: Split) -> np.ndarray:
    """Returns uint8 [n, H, W, C]: images evenly spaced over a split, so that a sorted one gives every class."""
    count = min(split.num_examples, CALIBRATION_IMAGES)
    return examples(split, np.arange(count) * split.num_examples // max(count, 1))[0]


def bytes_of(path: str) -> int:
    """Returns the bytes of a file, or of all files in a folder."""
    if os.path.isfile(path):
        return os.path.getsize(path)
    return sum(os.path.getsize(os.path.join(parent, name)) for parent, _, names in os.walk(path) for name in names)
