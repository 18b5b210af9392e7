"""What is written for TensorBoard beside scalars: pictures, texts, the graph, hyper-parameters, curves, embeddings."""
import time

import numpy as np

from pipeline.callbacks import Callback, Ending, Evaluated, Restored, Window
from pipeline.config import MOVING_AVERAGE
from pipeline.data.stream import examples
from pipeline.files import no_room
from pipeline.metrics.evaluation import confusion_matrix
from pipeline.monitoring.events import GRAPH, EventWriter, image_value, text_value
from pipeline.monitoring.tensorboard import hparams
from pipeline.monitoring.tensorboard.canvas import encode
from pipeline.monitoring.tensorboard.configuration import configuration_page
from pipeline.monitoring.tensorboard.confusion import ConfusionPicture
from pipeline.monitoring.tensorboard.curves import precision_recall_values
from pipeline.monitoring.tensorboard.histograms import histogram_values
from pipeline.monitoring.tensorboard.model_graph import model_graph
from pipeline.monitoring.tensorboard.projector import FeatureSketch, principal_components, spread, write_projector
from pipeline.monitoring.tensorboard.samples import MistakesPicture, samples_picture
from pipeline.quantities import counted

CONFIGURATION, SAMPLES, CONFUSION, MISTAKES = "configuration", "samples", "confusion_matrix", "worst_mistakes"
# Examples of the final split that the curves at the end come from. A forward pass is a third of a training step: of a
# run that trained on 30,000 examples and more they take about 1% of the time.
MOST_JUDGED, FEWEST_JUDGED, JUDGED_SHARE = 10_000, 1_000, 0.03
ABOUT_CONFUSION = ("Hits in blue, mistakes in red. A row is a true class and shaded by the share of its examples, "
                   "mistakes by the root of it; numbers are examples.")


def judged(trained):
    """Returns how many examples the curves are made of at most, after training on so many examples."""
    return min(MOST_JUDGED, max(FEWEST_JUDGED, int(JUDGED_SHARE * trained)))


class TensorBoardWriter(Callback):
    """Writes everything for TensorBoard but scalars, each thing once, whatever happens to the process.

    What belongs to a step goes into the recorder's runs `train`, `validation` and `.`, and is cut and synced with the
    scalars. What a run ends with goes into a run of its own, `test`, or `final` where
    no test split is there: a TensorBoard that looks on reads the projector's files when it finds a new run, and then
    only.
    """

    def __init__(self, experiment, directory, recorder):
        """
        Args:
          experiment: Experiment.
          directory: RunDirectory, claimed.
          recorder: Recorder of the run.
        """
        self._experiment, self._recorder = experiment, recorder
        self._folder = directory.file("tensorboard", "test" if experiment.source.test else "final")
        self._test = EventWriter(self._folder)
        self._confusion = ConfusionPicture(experiment.source.class_names)
        self._mistakes = MistakesPicture(experiment.source.class_names)

    def on_start(self, restored: Restored) -> None:
        """Writes what a run has once, as far as it is not there."""
        self._test.cut_after(restored.step)
        self._begin_session()
        self._introduce(restored.step)

    def _begin_session(self):
        """Opens the session of the hyper-parameters: anew where it is closed, or was one of other settings."""
        experiment, events = self._experiment, self._recorder.root_events
        values = hparams.hyperparameters(experiment.config, experiment.plan, experiment.strategy.num_replicas_in_sync)
        before = events.latest(hparams.START)
        started = hparams.started_at(before[1]) if before else time.time()
        value = hparams.start_value(values, started)
        if not before or events.latest(hparams.END) or not hparams.same_session(value, before[1]):
            events.cut_after(-1)  # Of a tag's descriptions TensorBoard takes the first.
            events.tensors(0, time.time(), [value])

    def _introduce(self, step):
        """Writes configuration, graph and samples where they are not there, or not as they are now."""
        experiment, events, now = self._experiment, self._recorder.train_events, time.time()
        page = text_value(CONFIGURATION, configuration_page(
            experiment.config, experiment.source, experiment.plan, experiment.state.model.count_params(),
            MOVING_AVERAGE if experiment.evaluates_average else None))
        before = events.latest(CONFIGURATION)
        if not before or before[1] != page:
            events.tensors(step, now, [page])
        if not events.latest(GRAPH):
            events.graph(step, now, model_graph(experiment))
        if not events.latest(SAMPLES):
            events.tensors(step, now, [image_value(SAMPLES, *encode(samples_picture(experiment, step)))])

    def on_window(self, window: Window) -> None:
        """Writes histograms where they are due."""
        step, events, plan = window.step, self._recorder.train_events, self._experiment.plan
        if not events.latest(CONFIGURATION):
            self._introduce(step)  # A rollback went behind the step at which this process wrote it.
        if plan.is_boundary(plan.histograms_every, step):
            events.tensors(step, time.time(), histogram_values(self._experiment, step))

    def on_evaluation(self, evaluated: Evaluated) -> None:
        """Writes the confusion matrix and the worst mistakes of an evaluation."""
        step, split, evaluation = evaluated.step, evaluated.split, evaluated.evaluation
        hits = round(evaluation.accuracy * evaluation.examples)
        title = (f"{split.name}, step {step}{self._weights()}: {hits:,} of {evaluation.examples:,} right "
                 f"({evaluation.accuracy:.2%})")
        matrix = confusion_matrix(evaluation.rows, evaluation.num_classes)
        self._recorder.validation_events.tensors(step, evaluated.wall_time, [
            image_value(CONFUSION, *encode(self._confusion.draw(matrix, title)), description=ABOUT_CONFUSION),
            image_value(MISTAKES, *encode(self._mistakes.draw(split, evaluation.rows, step)))])

    def on_end(self, ending: Ending) -> None:
        """Writes how a run ended: curves, embeddings, figures of the final split."""
        step, result, beat = ending.step, ending.result, ending.beat
        now, split = time.time(), self._experiment.source.final
        self._test.cut_after(step - 1)  # Of a process that was killed here.
        self._test.scalars(step, now, {name: result[f"{split.name}_{name}"] for name in ("accuracy", "loss")})
        index = spread(split.num_examples, judged(step * self._experiment.plan.batch_size))
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
        beat("what TensorBoard shows of the end")

    def close(self) -> None:
        """Closes the run `test`."""
        self._test.close()

    def _weights(self):
        """Returns a clause that names the evaluated weights, "" for those as trained."""
        return f", {MOVING_AVERAGE}" if self._experiment.evaluates_average else ""

    def _embed(self, index, features, predicted):
        """Writes the embeddings of examples of the final split.

        Args:
          index: int64 [N], their numbers.
          features: float32 [N, F], what the last layer is given of them.
          predicted: int [N], their predicted classes.
        """
        if not np.isfinite(features).all():
            return  # Training has diverged: there is nothing to look at.
        images, labels = examples(self._experiment.source.final, index)
        try:
            write_projector(self._folder, principal_components(features), images, labels, predicted,
                            self._experiment.source.class_names)
        except OSError as error:
            if not no_room(error):
                raise
            self._full(error)

    def _full(self, problem):
        self._recorder.disk.failed(f"the disk of {self._folder} is full ({problem.strerror}): what TensorBoard shows "
                                   "of the end of the run is not complete")
