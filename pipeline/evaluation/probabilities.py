"""The predictions of a model on each example of a split, as probabilities."""
import dataclasses
import functools
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
from scipy.special import log_softmax, logsumexp

from pipeline.metrics import evaluation as metrics

ROWS = 8192  # Computed at once: of a thousand classes more would take too much memory.


@dataclasses.dataclass(frozen=True, eq=False)
class Predictions:
    """Logits and labels of the examples of a split, in its own order, and their derived values in float64.

    Attributes:
      logits: float [N, classes].
      labels: int [N].
    """

    logits: np.ndarray
    labels: np.ndarray

    @property
    def num_classes(self) -> int:
        """Number of classes."""
        return self.logits.shape[1]

    @property
    def examples(self) -> int:
        """Number of examples."""
        return len(self.labels)

    @functools.cached_property
    def finite(self) -> bool:
        """Whether every logit is finite: otherwise there are no probabilities."""
        return bool(np.isfinite(self.logits).all())

    def _by_rows(self, function: Callable[[np.ndarray, slice], np.ndarray]) -> np.ndarray:
        """Returns [N] of a function of float64 log-probabilities [n, classes] and of the slice of rows."""
        parts = [slice(first, first + ROWS) for first in range(0, self.examples, ROWS)]
        return np.concatenate([function(log_softmax(self.logits[p].astype(np.float64), axis=1), p) for p in parts])

    @functools.cached_property
    def _normalizer(self) -> np.ndarray:
        parts = (self.logits[first:first + ROWS] for first in range(0, self.examples, ROWS))
        return np.concatenate([logsumexp(part.astype(np.float64), axis=1) for part in parts])

    @functools.cached_property
    def predicted(self) -> np.ndarray:
        """int64 [N]: the class of the largest logit, of equal ones the first."""
        return np.argmax(self.logits, axis=1)

    @functools.cached_property
    def correct(self) -> np.ndarray:
        """bool [N]: whether the predicted class is the true one."""
        return self.predicted == self.labels

    @functools.cached_property
    def confidence(self) -> np.ndarray:
        """float64 [N]: the probability of the predicted class."""
        return np.exp(self._of(self.predicted))

    @functools.cached_property
    def losses(self) -> np.ndarray:
        """float64 [N]: cross-entropy in nats."""
        return -self._of(self.labels)

    @property
    def true_probability(self) -> np.ndarray:
        """float64 [N]: the probability of the true class."""
        return np.exp(-self.losses)

    def probability(self, number: int) -> np.ndarray:
        """Returns float64 [N]: the probability of one class."""
        return np.exp(self._of(np.full(self.examples, number)))

    def _of(self, classes: np.ndarray) -> np.ndarray:
        """Returns float64 [N]: the log-probability of a class each."""
        return self.logits[np.arange(self.examples), classes].astype(np.float64) - self._normalizer

    @functools.cached_property
    def brier(self) -> np.ndarray:
        """float64 [N]: sum over classes of (probability - 1 for the true class, else 0) squared, in [0, 2]."""
        squares = self._by_rows(lambda log, rows: np.square(np.exp(log)).sum(axis=1))
        return np.maximum(squares - 2 * self.true_probability + 1, 0.0)

    def scaled(self, temperature: float | np.ndarray) -> "Predictions":
        """Returns the Predictions with logits divided by a temperature: one number, or one for each example [N]."""
        divisor = np.broadcast_to(np.asarray(temperature, np.float64), [self.examples])
        return Predictions(self.logits / divisor[:, None].astype(self.logits.dtype), self.labels)

    def select(self, index: np.ndarray) -> "Predictions":
        """Returns the Predictions of some examples, int [n]."""
        return Predictions(self.logits[index], self.labels[index])

    def evaluation(self) -> metrics.Evaluation:
        """Returns the metrics.Evaluation of these probabilities."""
        def ranks(log: np.ndarray, rows: slice) -> np.ndarray:
            labels = self.labels[rows]
            own = log[np.arange(len(labels)), labels][:, None]
            before = np.arange(self.num_classes)[None] < labels[:, None]  # Of equal logits the first is predicted.
            return ((log > own) | ((log == own) & before)).sum(axis=1)

        rows = np.stack([self.labels, self.predicted, self.confidence, self.losses, self._by_rows(ranks)], axis=1)
        sums = np.array([self.losses.sum(), self.correct.sum(), self.examples], np.float64)
        return metrics.evaluation(sums, rows.astype(np.float32), self.num_classes)


def averaged(parts: Iterable[Predictions]) -> Predictions:
    """Averages the probabilities of several views of the same examples; the logits are log-probabilities, float64."""
    total: Any = None
    labels = np.zeros(0, np.int64)
    for part in parts:
        log = log_softmax(part.logits.astype(np.float64), axis=1)
        total, labels = (log, part.labels) if total is None else (np.logaddexp(total, log, out=total), labels)
    return Predictions(log_softmax(total, axis=1), labels)
