"""The model `mlp` trained by hand: its gradients and the optimizers' formulas in NumPy and float64.

Numbers are ones that no rounding to float32 changes, which Keras does here and there.
"""
import numpy as np

RATE, MOMENTUM, DECAY, BETAS, EPSILON = 2.0**-7, 0.875, 2.0**-6, (0.875, 1 - 2.0**-10), 2.0**-20
NAMES = ("hidden/w", "hidden/b", "classifier/w", "classifier/b")


def gradients(weights, image, label):
    """Returns {name: gradient of the mean cross-entropy} of one batch, image uint8 [B, H, W, C], label [B]."""
    x = image.reshape(len(image), -1) / 255.0
    hidden = x @ weights["hidden/w"] + weights["hidden/b"]
    active = np.maximum(hidden, 0)
    logits = active @ weights["classifier/w"] + weights["classifier/b"]
    likely = np.exp(logits - logits.max(axis=1, keepdims=True))
    error = (likely / likely.sum(axis=1, keepdims=True) - np.eye(logits.shape[1])[label]) / len(x)
    back = (error @ weights["classifier/w"].T) * (hidden > 0)
    return dict(zip(NAMES, (x.T @ back, back.sum(axis=0), active.T @ error, error.sum(axis=0)), strict=True))


class Momentum:
    """SGD with momentum, as Keras writes it."""

    def __init__(self, name):
        self.velocity = 0.0

    def step(self, weight, gradient, rate, decays):
        """Returns the weight after an update."""
        self.velocity = MOMENTUM * self.velocity - rate * gradient
        return weight + self.velocity


class AdamW:
    """Adam (Kingma and Ba, 2015), epsilon outside of the correction as in Keras, after decoupled decay."""

    def __init__(self, name):
        self.first, self.second, self.updates = 0.0, 0.0, 0

    def step(self, weight, gradient, rate, decays):
        """Returns the weight after an update."""
        weight = weight - weight * DECAY * rate * decays
        self.updates += 1
        first, second = BETAS
        self.first += (gradient - self.first) * (1 - first)
        self.second += (gradient**2 - self.second) * (1 - second)
        rate *= np.sqrt(1 - second**self.updates) / (1 - first**self.updates)
        return weight - rate * self.first / (np.sqrt(self.second) + EPSILON)


ADAM = {"beta1": BETAS[0], "beta2": BETAS[1], "epsilon": EPSILON}
OPTIMIZERS = {"sgd": Momentum, "adamw": AdamW}
OPTIONS = {"sgd": {"momentum": MOMENTUM}, "adamw": {"weight_decay": DECAY, **ADAM}}


def train(weights, batches, optimizer, begins, factors=None, limit=np.inf, skipped=(), undecayed=()):
    """Trains in stages, each weight with an optimizer of its own that is new when it begins to train.

    Args:
      weights: {name: float64 array}.
      batches: [(image, label)], one for each step.
      optimizer: name in OPTIMIZERS.
      begins: {name: number of steps after which it begins to train}; a weight that is not in it never does.
      factors: {name: factor of the learning rate}, default 1.
      limit: largest global norm of the gradients of what trains.
      skipped: numbers of steps, from 0, that are not applied.
      undecayed: names of matrices without decay; vectors have none.

    Returns:
      ({name: array after the last step}, [global norm of the gradients of what trains, before clipping]).
    """
    weights, optimizers, norms = dict(weights), {}, []
    for step, (image, label) in enumerate(batches):
        grads = gradients(weights, image, label)
        trained = [name for name in NAMES if begins.get(name, len(batches)) <= step]
        norms.append(np.sqrt(sum(np.sum(grads[name] ** 2) for name in trained)))
        if step in skipped:
            continue
        for name in trained:
            own = optimizers.setdefault(name, OPTIMIZERS[optimizer](name))
            rate = RATE * (factors or {}).get(name, 1.0)
            decays = weights[name].ndim > 1 and name not in undecayed
            weights[name] = own.step(weights[name], grads[name] * min(1.0, limit / norms[-1]), rate, decays)
    return weights, norms


def batches(experiment, count):
    """Returns the first batches of an experiment's stream as `train` takes them."""
    found = (experiment.train_batch(step) for step in range(count))
    return [(batch["image"].numpy(), batch["label"].numpy()) for batch in found]
