"""Compiled forward passes that change nothing: evaluation, outputs, saliency."""
import dataclasses

import keras
import numpy as np
import tensorflow as tf

from pipeline.choices import METRICS
from pipeline.distributed.input_distribution import InputDistributor
from pipeline.metrics.evaluation import EXAMPLE_COLUMNS
from pipeline.models.recording import record_last_input
from pipeline.training.losses import find_loss, is_correct, masked, of_user, with_wide_labels
from pipeline.training.settings import StepSettings, preprocess

EVALUATION_SUMS = ("loss", "correct", "examples")
SMOOTHING_VIEWS = 16  # Noisy copies of an image over which a saliency map is averaged.
SMOOTHING_NOISE = 0.15  # Standard deviation of the noise over the range of the values of the image.


class Inference:
    """The compiled forward passes of one model under one strategy.

    Attributes:
      evaluate_steps: see `_evaluate_steps`.
      logits_of_batch: see `_logits_of_batch`.
      outputs_of_batch: see `_outputs_of_batch`.
      logits: function of images uint8 [n, H, W, C] to logits [n, classes] of the compute dtype.
      saliency: see `_saliency`.
    """

    def __init__(self, strategy: tf.distribute.Strategy, model: keras.Model, settings: StepSettings,
                 input_distributor: InputDistributor | None = None):
        """
        Args:
          strategy: in whose scope the model was created.
          model: built.
          input_distributor: that of the strategy, if there is one already.
        """
        self.strategy, self.model, self.settings = strategy, model, settings
        self._loss = find_loss(settings.loss)
        self._metrics = [of_user(f"metric {name}", METRICS.find(name)) for name in settings.metrics]
        self.input_distributor = input_distributor or InputDistributor(strategy)
        # Without AutoGraph: it writes what it generates into the folder for temporary files, which may be full.
        self.evaluate_steps, self.logits_of_batch, self.outputs_of_batch = (
            tf.function(f, autograph=False)
            for f in (self._evaluate_steps, self._logits_of_batch, self._outputs_of_batch))
        self.logits, self.saliency = (
            tf.function(f, autograph=False, reduce_retracing=True) for f in (self._logits, self._saliency))

    @property
    def num_sums(self) -> int:
        """Number of sums of an evaluation: EVALUATION_SUMS and one for each metric."""
        return len(EVALUATION_SUMS) + len(self._metrics)

    def _logits(self, images):
        images = preprocess(images, self.settings)
        return tf.cast(self.model(images, training=False), self.settings.compute_dtype)

    def _replica_evaluation(self, batch):
        """Returns float64 [num_sums] sums and float32 [rows, 5] EXAMPLE_COLUMNS of one replica's part of a batch.

        Padding does not count in the sums; its rows are included.
        """
        batch = with_wide_labels(self.input_distributor.rows(batch))
        logits, label = self._logits(batch["image"]), batch["label"]
        losses = self._loss(logits, label)
        counted = (losses, is_correct(logits, label), *(metric(logits, label) for metric in self._metrics))
        loss, correct, *more = (masked(values, batch["weight"]) for values in counted)
        sums = tf.stack([tf.reduce_sum(tf.cast(v, tf.float64)) for v in (loss, correct, batch["weight"], *more)])
        rows = tf.stack([tf.cast(v, tf.float32) for v in _example_columns(logits, label, losses)], axis=-1)
        return (sums, rows) if self.input_distributor.workers == 1 else self._over_workers(sums, rows)

    def _over_workers(self, sums, rows):
        """Returns sums and rows of all replicas of all workers, in replica order, on each: one reduction.

        Each replica contributes its own row of an otherwise zero table.
        """
        replica, replicas = tf.distribute.get_replica_context(), self.strategy.num_replicas_in_sync
        line = tf.concat([sums, tf.cast(tf.reshape(rows, [-1]), sums.dtype)], axis=0)
        own = tf.one_hot(replica.replica_id_in_sync_group, replicas, on_value=True, off_value=False, dtype=tf.bool)
        table = replica.all_reduce("SUM", tf.where(own[:, None], line, tf.zeros_like(line)))
        rows = tf.reshape(table[:, sums.shape[0]:], [replicas * rows.shape[0], rows.shape[1]])
        return tf.reduce_sum(table[:, :sums.shape[0]], axis=0), tf.cast(rows, tf.float32)

    def _evaluate_steps(self, iterator, num_batches, total):
        """Evaluates `num_batches` batches.

        Args:
          iterator: of the evaluation batches, see InputDistributor.
          num_batches: int32 scalar tensor.
          total: [num_sums] float64, the sums of the batches before, so that the parts in which an evaluation is done do
            not change its rounding.

        Returns:
          ([num_sums] float64 sums over examples of all replicas, float32 [num_batches, B, 5] EXAMPLE_COLUMNS in the
          order of the split, including rows of padding).
        """
        def one_more(i, total, rows):
            sums, part = self.strategy.run(self._replica_evaluation, args=(iterator.get_next(),))
            if self.input_distributor.workers == 1:
                sums, part = self.strategy.reduce("SUM", sums, axis=None), self._joined(part)
            else:
                sums, part = (self.strategy.experimental_local_results(v)[0] for v in (sums, part))
            return i + 1, total + sums, rows.write(i, part)

        size = self.evaluation_batch_size
        rows = tf.TensorArray(tf.float32, size=num_batches, element_shape=[size, len(EXAMPLE_COLUMNS)])
        _, total, rows = tf.while_loop(lambda i, *_: i < num_batches, one_more, (tf.constant(0), total, rows))
        return total, rows.stack()

    @property
    def evaluation_batch_size(self) -> int:
        """Examples of an evaluation batch: the training batch size, rounded up to a multiple of the replicas."""
        replicas = self.strategy.num_replicas_in_sync
        return -(-self.settings.batch_size // replicas) * replicas

    def _logits_of_batch(self, iterator):
        """Returns the logits of the next evaluation batch, [B, classes] of the compute dtype, in its order."""
        return self._joined(self.strategy.run(
            lambda batch: self._logits(self.input_distributor.rows(batch)["image"]), args=(iterator.get_next(),)))

    def _joined(self, value):
        """Concatenates the rows of all replicas in the order of the global batch."""
        parts = self.strategy.experimental_local_results(value)
        return parts[0] if len(parts) == 1 else tf.concat(parts, axis=0)

    def _outputs_of_batch(self, iterator):
        """Returns (logits of the next evaluation batch, input of the last layer with weights, float32 [B, F])."""
        def outputs(batch):
            images = self.input_distributor.rows(batch)["image"]
            logits = self._logits(images)
            return logits, tf.cast(tf.reshape(inputs[-1], [tf.shape(images)[0], -1]), tf.float32)

        with record_last_input(self.model) as inputs:  # Of all replicas, one after the other.
            return tuple(map(self._joined, self.strategy.run(outputs, args=(iterator.get_next(),))))

    def _saliency(self, images, classes):
        """Returns how much the logit of a class depends on each pixel.

        The mean of the absolute gradient over noisy copies of the image (SmoothGrad, Smilkov et al., arXiv:1706.03825);
        the noise is the same at every call.

        Args:
          images: uint8 [n, H, W, C].
          classes: int32 [n].

        Returns:
          float32 [n, H, W], the maximum over the channels, >= 0.
        """
        clean = preprocess(images, self.settings)
        within = dict(axis=(1, 2, 3), keepdims=True)
        std = SMOOTHING_NOISE * (tf.reduce_max(clean, **within) - tf.reduce_min(clean, **within))

        def one_more(view, total):
            seed = tf.stack([self.settings.seed, view])
            noise = tf.random.stateless_normal(tf.shape(clean)[1:], seed, dtype=clean.dtype)
            noisy = clean + std * noise
            with tf.GradientTape() as tape:
                tape.watch(noisy)
                logits = tf.cast(self.model(noisy, training=False), self.settings.compute_dtype)
                chosen = tf.reduce_sum(tf.gather(logits, classes, batch_dims=1))
            gradient = tf.abs(tape.gradient(chosen, noisy))
            return view + 1, total + tf.cast(tf.reduce_max(gradient, axis=-1), tf.float32)

        start = (tf.constant(0), tf.zeros(tf.shape(images)[:3]))
        total = tf.while_loop(lambda view, _: view < SMOOTHING_VIEWS, one_more, start)[1]
        return total / SMOOTHING_VIEWS

    def graph_def(self, image_shape: tuple[int, int, int]) -> tf.compat.v1.GraphDef:
        """Returns the graph of the forward pass over uint8 images of (H, W, C), without the values of weights."""
        images = tf.TensorSpec((None, *image_shape), tf.uint8, name="images")
        return tf.function(self._logits, autograph=False).get_concrete_function(images).graph.as_graph_def()


def _example_columns(logits, label, losses):
    """Returns EXAMPLE_COLUMNS, each [B]."""
    predicted = tf.argmax(logits, axis=-1, output_type=label.dtype)
    confidence = tf.exp(tf.reduce_max(logits, axis=-1) - tf.reduce_logsumexp(logits, axis=-1))
    own = tf.gather(logits, label, batch_dims=1)[:, None]
    behind = tf.range(tf.shape(logits)[-1], dtype=label.dtype)[None] >= label[:, None]
    # Of equal logits the first class is predicted; NaN never ranks behind.
    smaller = (logits < own) | ((logits == own) & behind)
    return label, predicted, confidence, losses, tf.reduce_sum(tf.cast(~smaller, tf.int64), axis=-1)


@dataclasses.dataclass(frozen=True)
class Outputs:
    """Outputs of a model for the examples of a split, in the order of the split.

    Attributes:
      logits: float32 or float64 [N, classes].
      labels: int32 [N].
    """

    logits: np.ndarray
    labels: np.ndarray
