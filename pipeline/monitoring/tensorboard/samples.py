"""Examples as pictures: those that training sees, and those that the model is most wrong about."""
import numpy as np

from pipeline.data.stream import examples
from pipeline.metrics.evaluation import CONFIDENCE, LABEL, LOSS, PREDICTED, hit_rows
from pipeline.monitoring.tensorboard.gallery import gallery
from pipeline.quantities import counted

MOST_SAMPLES, SAMPLE_COLUMNS = 24, 6
MOST_MISTAKES, MISTAKE_COLUMNS = 16, 4
KEPT = 4 * MOST_MISTAKES  # Pictures read at once: some of these are among the worst at the next evaluation.


def samples_picture(experiment, step):
    """Draws the first examples of the next batch as the model will see them: augmented, mixed, not normalized.

    Args:
      experiment: Experiment.
      step: global step; the training stream itself is not touched.

    Returns:
      A PIL image.
    """
    batch = next(experiment.train_dataset(step).as_numpy_iterator())
    captions = sample_captions(batch["label"], batch.get("mix"), experiment.source.class_names)[:MOST_SAMPLES]
    title = f"{counted(len(captions), 'example')} of step {step + 1}, as the model sees them"
    return gallery(batch["image"][:MOST_SAMPLES], captions, title, SAMPLE_COLUMNS)


def sample_captions(labels, mix, class_names):
    """Returns a pair of lines an example: its class, or the two that are mixed, with their shares.

    Args:
      labels: int32 [B].
      mix: float32 [B], the share of the own image, the rest is the neighbour's (of row 2i row 2i + 1); or None.
      class_names: in the order of the labels.
    """
    if mix is None:
        return [(class_names[label], "") for label in labels]
    lines = []
    for row, share in enumerate(mix):
        parts = [(share, class_names[labels[row]]), (1 - share, class_names[labels[row ^ 1]])]
        first, second = sorted(parts, key=lambda part: -part[0])
        lines.append((f"{first[0]:.0%} {first[1]}", f"{second[0]:.0%} {second[1]}"))
    return lines


def worst_mistakes(rows, most=MOST_MISTAKES):
    """Returns the numbers of the wrong examples with the largest losses, the largest first, int64 [<= most].

    Args:
      rows: float32 [N, 5], see pipeline.metrics.evaluation.Evaluation.
      most: how many.
    """
    wrong = np.flatnonzero(~hit_rows(rows))
    losses = np.nan_to_num(rows[wrong, LOSS], nan=np.inf, posinf=np.inf)
    return wrong[np.argsort(-losses, kind="stable")[:most]]


class MistakesPicture:
    """Draws the worst mistakes of evaluations; keeps their pictures, most of which come again.

    Opening a split for a few examples takes longer than drawing them.
    """

    def __init__(self, class_names):
        """Args: class_names: in the order of the labels."""
        self._class_names, self._split, self._pictures = class_names, None, {}

    def draw(self, split, rows, step):
        """Draws the worst mistakes of an evaluation.

        Args:
          split: the Split that was evaluated.
          rows: float32 [N, 5], see pipeline.metrics.evaluation.Evaluation.
          step: global step.

        Returns:
          A PIL image.
        """
        candidates = worst_mistakes(rows, KEPT)
        worst = candidates[:MOST_MISTAKES]
        self._read(split, worst, candidates)
        captions = [(f"{self._name(row[LABEL])} → {self._name(row[PREDICTED])}",
                     f"{row[CONFIDENCE]:.0%}, loss {row[LOSS]:.1f}") for row in rows[worst]]
        pictures = np.stack([self._pictures[number] for number in worst.tolist()]) if len(worst) else np.zeros(
            [0, 1, 1, 3], np.uint8)
        title = f"worst mistakes on {split.name}, step {step}: true → predicted"
        return gallery(pictures, captions, title, MISTAKE_COLUMNS, note="no mistakes")

    def _read(self, split, worst, candidates):
        """Reads the pictures of the candidates unless those of the worst are there already."""
        if split is self._split and set(worst.tolist()) <= set(self._pictures):
            return
        index = np.sort(candidates)
        self._split, self._pictures = split, dict(zip(index.tolist(), examples(split, index)[0], strict=True))

    def _name(self, label):
        return self._class_names[int(label)]
