"""Images of examples: those that training sees, and the worst mistakes of an evaluation."""
from collections.abc import Sequence
from typing import Any

import numpy as np
from PIL import Image

from pipeline.data.stream import examples
from pipeline.metrics.evaluation import CONFIDENCE, LABEL, LOSS, PREDICTED, correct_rows
from pipeline.monitoring.tensorboard.gallery import gallery
from pipeline.quantities import counted

MOST_SAMPLES, SAMPLE_COLUMNS = 24, 6
MOST_MISTAKES, MISTAKE_COLUMNS = 16, 4
KEPT = 4 * MOST_MISTAKES  # Images read at once: some of them are among the worst in the next evaluation.


def draw_samples(experiment: Any, step: int) -> Image.Image:
    """Draws the first examples of the next batch as the model sees them: augmented, mixed, not normalized.

    The training stream of the Experiment is not touched.
    """
    batch = {name: value.numpy() for name, value in experiment.train_batch(step).items()}
    captions = sample_captions(batch["label"], batch.get("mix"), experiment.source.class_names)[:MOST_SAMPLES]
    title = f"{counted(len(captions), 'example')} of step {step + 1}, as the model sees them"
    return gallery(batch["image"][:MOST_SAMPLES], captions, title, SAMPLE_COLUMNS)


def sample_captions(labels: np.ndarray, mix: np.ndarray | None, class_names: Sequence[str]) -> list[tuple[str, str]]:
    """Returns two lines per example: its class, or the two mixed classes with their shares.

    Args:
      labels: int32 [B].
      mix: float32 [B], the share of the own image, the rest is the neighbor's (of row 2i row 2i + 1); or None.
      class_names: in the order of the labels.
    """
    if mix is None:
        return [(class_names[label], "") for label in labels]
    lines = []
    for row, share in enumerate(mix):
        parts = [(share, class_names[labels[row]]), (1 - share, class_names[labels[row ^ 1]])]
        first, second = (f"{part:.0%} {name}" for part, name in sorted(parts, key=lambda part: -part[0]))
        lines.append((first, second))
    return lines


def worst_mistakes(rows: np.ndarray, most: int = MOST_MISTAKES) -> np.ndarray:
    """Returns the indices of the misclassified examples with the largest losses, largest first, int64 [<= most].

    The rows are those of pipeline.metrics.evaluation.Evaluation, float32 [N, 5].
    """
    wrong = np.flatnonzero(~correct_rows(rows))
    losses = np.nan_to_num(rows[wrong, LOSS], nan=np.inf, posinf=np.inf)
    return wrong[np.argsort(-losses, kind="stable")[:most]]


class MistakesImage:
    """Draws the worst mistakes of evaluations; keeps their images, since most of them recur.

    Opening a split for a few examples takes longer than drawing them.
    """

    def __init__(self, class_names: Sequence[str]):
        self._class_names, self._split = class_names, None
        self._images: dict[int, np.ndarray] = {}

    def draw(self, split: Any, rows: np.ndarray, step: int) -> Image.Image:
        """Draws the worst mistakes of an evaluation of a Split; rows as in `worst_mistakes`."""
        candidates = worst_mistakes(rows, KEPT)
        worst = candidates[:MOST_MISTAKES]
        if split is not self._split or not set(worst.tolist()) <= set(self._images):
            index = np.sort(candidates)
            self._split, self._images = split, dict(zip(index.tolist(), examples(split, index)[0], strict=True))
        captions = [(f"{self._name(row[LABEL])} → {self._name(row[PREDICTED])}",
                     f"{row[CONFIDENCE]:.0%}, loss {row[LOSS]:.1f}") for row in rows[worst]]
        images = np.stack([self._images[number] for number in worst.tolist()]) if len(worst) else np.zeros(
            [0, 1, 1, 3], np.uint8)
        title = f"worst mistakes on {split.name}, step {step}: true → predicted"
        return gallery(images, captions, title, MISTAKE_COLUMNS, note="no mistakes")

    def _name(self, label: float) -> str:
        return self._class_names[int(label)]
