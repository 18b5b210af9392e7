"""Predictions of random logits that know something of the labels."""
import numpy as np

from pipeline.evaluation.probabilities import Predictions


def predictions(count=400, classes=4, seed=0, strength=2.0, scale=1.0, labels=None):
    """Returns Predictions of noise, the true class's logit larger by `strength`, and all logits times `scale`."""
    generator = np.random.RandomState(seed)
    labels = generator.randint(classes, size=count).astype(np.int32) if labels is None else np.asarray(labels, np.int32)
    logits = generator.randn(len(labels), classes)
    logits[np.arange(len(labels)), labels] += strength
    return Predictions((logits * scale).astype(np.float32), labels)


def softmax(found):
    """Returns float64 [N, classes], the probabilities of Predictions, by the textbook."""
    exponents = np.exp(found.logits.astype(np.float64))
    return exponents / exponents.sum(axis=1, keepdims=True)
