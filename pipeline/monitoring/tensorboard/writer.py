"""Writes TensorBoard's images, texts, graph, hyper-parameters, curves and embeddings; the recorder writes scalars."""
import time
from typing import Any

import numpy as np
from tensorboard.plugins.text.summary_v2 import text_pb

from pipeline.callbacks import Callback, Ending, Evaluated, Restored, Window
from pipeline.config import MOVING_AVERAGE
from pipeline.data.stream import examples
from pipeline.files import no_room
from pipeline.metrics.evaluation import confusion_matrix
from pipeline.monitoring.events import GRAPH, EventWriter
from pipeline.monitoring.recorder import Recorder
from pipeline.monitoring.tensorboard import hparams
from pipeline.monitoring.tensorboard.canvas import image_value
from pipeline.monitoring.tensorboard.configuration import configuration_page
from pipeline.monitoring.tensorboard.confusion import ConfusionImage
from pipeline.monitoring.tensorboard.curves import precision_recall_values
from pipeline.monitoring.tensorboard.histograms import histogram_values
from pipeline.monitoring.tensorboard.model_graph import model_graph
from pipeline.monitoring.tensorboard.projector import FeatureSketch, principal_components, spread, write_projector
from pipeline.monitoring.tensorboard.samples import MistakesImage, draw_samples
from pipeline.quantities import counted
from pipeline.run_directory import RunDirectory

CONFIGURATION, SAMPLES, CONFUSION, MISTAKES = "configuration", "samples", "confusion_matrix", "worst_mistakes"
# Examples of the final split for the curves at the end. A forward pass is a third of a training step: of a run that
# trained on 30,000 examples and more the curves take about 1% of the time.
MOST_EVALUATED, FEWEST_EVALUATED, EVALUATED_SHARE = 10_000, 1_000, 0.03
ABOUT_CONFUSION = ("Correct predictions in blue, mistakes in red. A row is a true class and shaded by the share of its "
                   "examples, mistakes by its square root; numbers are examples.")


def most_evaluated(trained: int) -> int:
    """Returns the maximum number of examples for the curves, after training on so many examples."""
    return min(MOST_EVALUATED, max(FEWEST_EVALUATED, int(EVALUATED_SHARE * trained)))


class TensorBoardWriter(Callback):
    """Writes everything for TensorBoard but scalars, each thing once, also after kills and restarts.

    What belongs to a step goes into the recorder's TensorBoard runs `train`, `validation` and `.`, and is cut and
    synced with the scalars. Results of the end go into a TensorBoard run of their own, `test`, or `final` without a
    test split: a running TensorBoard reads the projector's files only when it finds a new run.
    """

    def __init__(self, experiment: Any, directory: RunDirectory, recorder: Recorder):
        self._experiment, self._recorder = experiment, recorder
        self._folder = directory.file("tensorboard", "test" if experiment.source.test else "final")
        self._test = EventWriter(self._folder)
        self._confusion = ConfusionImage(experiment.source.class_names)
        self._mistakes = MistakesImage(experiment.source.class_names)

    def on_start(self, restored: Restored) -> None:
        """Writes configuration, graph, samples and hyper-parameters unless they are there."""
        self._test.cut_after(restored.step)
        self._begin_session()
        self._introduce(restored.step)

    def _begin_session(self) -> None:
        """Begins the session of hyper-parameters, unless one with the same values is open."""
        experiment, events = self._experiment, self._recorder.root_events
        values = hparams.hyperparameters(experiment.config, experiment.plan, experiment.strategy.num_replicas_in_sync)
        before = events.latest(hparams.START)
        old = hparams.start_info(before[1]) if before else None
        value = hparams.start_value(values, old.start_time_secs if old else time.time())
        if not old or events.latest(hparams.END) or old.hparams != hparams.start_info(value).hparams:
            events.cut_after(-1)  # TensorBoard takes the first value of a tag.
            events.tensors(0, time.time(), [value])

    def _introduce(self, step: int) -> None:
        """Writes configuration, graph and samples where they are missing or outdated."""
        experiment, events, now = self._experiment, self._recorder.train_events, time.time()
        page = text_pb(CONFIGURATION, configuration_page(
            experiment.config, experiment.source, experiment.plan, experiment.state.model.count_params(),
            MOVING_AVERAGE if experiment.evaluates_average else None), description="").value[0]
        before = events.latest(CONFIGURATION)
        if not before or before[1] != page:
            events.tensors(step, now, [page])
        if not events.latest(GRAPH):
            events.graph(step, now, model_graph(experiment))
        if not events.latest(SAMPLES):
            events.tensors(step, now, [image_value(SAMPLES, draw_samples(experiment, step))])

    def on_window(self, window: Window) -> None:
        """Writes histograms where they are due."""
        step, events, plan = window.step, self._recorder.train_events, self._experiment.plan
        if not events.latest(CONFIGURATION):
            self._introduce(step)  # A rollback removed what this process wrote.
        if plan.is_boundary(plan.histograms_every, step):
            events.tensors(step, time.time(), histogram_values(self._experiment, step))

    def on_evaluation(self, evaluated: Evaluated) -> None:
        """Writes the confusion matrix and the worst mistakes of an evaluation."""
        step, split, evaluation = evaluated.step, evaluated.split, evaluated.evaluation
        correct = round(evaluation.accuracy * evaluation.examples)
        title = (f"{split.name}, step {step}{self._weights()}: {correct:,} of {evaluation.examples:,} correct "
                 f"({evaluation.accuracy:.2%})")
        matrix = confusion_matrix(evaluation.rows, evaluation.num_classes)
        self._recorder.validation_events.tensors(step, evaluated.wall_time, [
            image_value(CONFUSION, self._confusion.draw(matrix, title), ABOUT_CONFUSION),
            image_value(MISTAKES, self._mistakes.draw(split, evaluation.rows, step))])

    def on_end(self, ending: Ending) -> None:
        """Writes the results of the final split: figures, curves and embeddings."""
        step, result, beat = ending.step, ending.result, ending.beat
        now, split = time.time(), self._experiment.source.final
        self._test.cut_after(step - 1)  # Of a process that was killed here.
        self._test.scalars(step, now, {name: result[f"{split.name}_{name}"] for name in ("accuracy", "loss")})
        index = spread(split.num_examples, most_evaluated(step * self._experiment.plan.batch_size))
        chosen = spread(len(index))
        sketch, part = FeatureSketch(chosen), split if len(index) == split.num_examples else split.select(index)
        with self._experiment.evaluated_weights():
            outputs = self._experiment.outputs(part, None, sketch, ending.should_stop, beat)
        if outputs is None:
            ending.complete = False
            return
        self._test.tensors(step, now, precision_recall_values(
            outputs.logits, outputs.labels, self._experiment.source.class_names,
            f"Of {len(index):,} of {counted(split.num_examples, split.name + ' example')}{self._weights()}."))
        beat("the precision-recall curves")
        self._embed(index[chosen], sketch.values, outputs.logits[chosen].argmax(axis=1))
        self._recorder.root_events.tensors(step, now, [hparams.end_value(now)])
        self._recorder.sync()
        if not self._test.flush(sync=True):
            self._full(self._test.problem)
        beat("the results for TensorBoard")

    def close(self) -> None:
        """Closes the files of the end."""
        self._test.close()

    def _weights(self) -> str:
        """Returns a clause that names the evaluated weights, "" for the trained ones."""
        return f", {MOVING_AVERAGE}" if self._experiment.evaluates_average else ""

    def _embed(self, index: np.ndarray, features: np.ndarray, predicted: np.ndarray) -> None:
        """Writes the embeddings of N examples of the final split, given by index: inputs of the last layer, [N, F]."""
        if not np.isfinite(features).all():
            return  # Training has diverged.
        images, labels = examples(self._experiment.source.final, index)
        try:
            write_projector(self._folder, principal_components(features), images, labels, predicted,
                            self._experiment.source.class_names)
        except OSError as error:
            if not no_room(error):
                raise
            self._full(error)

    def _full(self, problem: OSError | None) -> None:
        self._recorder.disk.failed(f"the disk of {self._folder} is full ({problem.strerror if problem else ''}): the "
                                   "run's final results for TensorBoard are incomplete")
