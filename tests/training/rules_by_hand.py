"""The formulas of the papers of optimizers, in NumPy and float64; see by_hand, which trains with them."""
import numpy as np

from tests.training import by_hand
from tests.training.by_hand import ADAM, BETAS, DECAY, EPSILON, MOMENTUM

TRUST, NORM = 1e-3, 1e-7


class Adam(by_hand.AdamW):
    """Without decay."""

    def step(self, weight, gradient, rate, decays):
        return super().step(weight, gradient, rate, False)


class Lamb(by_hand.AdamW):
    """LAMB (You et al., arXiv:1904.00962), algorithm 2; vectors at the plain rate."""

    def step(self, weight, gradient, rate, decays):
        self.updates += 1
        first, second = BETAS
        self.first = first * self.first + (1 - first) * gradient
        self.second = second * self.second + (1 - second) * gradient**2
        update = self.first / (1 - first**self.updates) / (
            np.sqrt(self.second / (1 - second**self.updates)) + EPSILON) + DECAY * decays * weight
        lengths = np.linalg.norm(weight), np.linalg.norm(update)
        return weight - rate * update * (lengths[0] / lengths[1] if weight.ndim > 1 and min(lengths) > 0 else 1)


class Lion:
    """Lion (Chen et al., arXiv:2302.06675)."""

    def __init__(self, name):
        self.mean = 0.0

    def step(self, weight, gradient, rate, decays):
        weight = weight - weight * DECAY * rate * decays
        first, second = BETAS
        update = np.sign(first * self.mean + (1 - first) * gradient)
        self.mean = second * self.mean + (1 - second) * gradient
        return weight - rate * update


class RMSprop:
    """RMSprop of TensorFlow 1: epsilon in the root, the mean of squares from 1, the rate in the momentum."""

    def __init__(self, name):
        self.square, self.moved = 1.0, 0.0

    def step(self, weight, gradient, rate, decays):
        weight = weight - weight * DECAY * rate * decays
        self.square = BETAS[1] * self.square + (1 - BETAS[1]) * gradient**2
        self.moved = MOMENTUM * self.moved + rate * gradient / np.sqrt(self.square + EPSILON)
        return weight - self.moved


class Lars:
    """LARS (arXiv:1708.03888), equations 5 and 6; vectors at the plain rate."""

    def __init__(self, name):
        self.moved = 0.0

    def step(self, weight, gradient, rate, decays):
        decay = DECAY * decays
        if weight.ndim > 1:
            length = np.linalg.norm(weight)
            rate = rate * TRUST * length / (np.linalg.norm(gradient) + decay * length + NORM)
        self.moved = MOMENTUM * self.moved + rate * (gradient + decay * weight)
        return weight - self.moved


class Adafactor:
    """Adafactor (arXiv:1804.04235), algorithms 4 and 5 with the decay 1 - t^-0.8, on the last two axes."""

    def __init__(self, name):
        self.rows = self.columns = self.square = 0.0
        self.updates = 0

    def step(self, weight, gradient, rate, decays):
        weight = weight - weight * DECAY * rate * decays
        self.updates += 1
        second, square = 1 - self.updates**-0.8, gradient**2 + EPSILON
        if weight.ndim > 1:
            self.rows = second * self.rows + (1 - second) * square.sum(axis=-1)
            self.columns = second * self.columns + (1 - second) * square.sum(axis=-2)
            estimate = (self.rows[..., :, None] * self.columns[..., None, :]
                        / self.rows.sum(axis=-1)[..., None, None])
        else:
            self.square = estimate = second * self.square + (1 - second) * square
        update = gradient / np.sqrt(estimate)
        update = update / max(1, np.sqrt(np.mean(update**2)))
        return weight - max(1e-3, np.sqrt(np.mean(weight**2))) * rate * update


class Muon(by_hand.AdamW):
    """Muon (Jordan et al. 2024) in the scale of arXiv:2502.16982; AdamW for vectors and for the last layer."""

    def __init__(self, name):
        super().__init__(name)
        self.moved, self.adam = 0.0, name.startswith("classifier") or name.endswith("/b")

    def step(self, weight, gradient, rate, decays):
        if self.adam:
            return super().step(weight, gradient, rate, decays)
        weight = weight - weight * DECAY * rate * decays
        self.moved = MOMENTUM * self.moved + gradient
        update = (gradient + MOMENTUM * self.moved).reshape(-1, weight.shape[-1])
        update = update / (np.linalg.norm(update) + NORM)
        u, s, v = np.linalg.svd(update, full_matrices=False)
        for _ in range(5):
            s = 3.4445 * s - 4.7750 * s**3 + 2.0315 * s**5
        update = u * s @ v
        return weight - rate * 0.2 * np.sqrt(max(update.shape)) * update.reshape(weight.shape)


class ScheduleFree:
    """Algorithm 1 of arXiv:2405.15682 with its three sequences; `step` takes and returns y."""

    def __init__(self, name):
        self.z = self.x = None
        self.square = self.weights = 0.0
        self.updates = 0

    def step(self, weight, gradient, rate, decays):
        if self.z is None:
            self.z = self.x = weight
        self.updates += 1
        first, second = BETAS
        self.square = second * self.square + (1 - second) * gradient**2
        divisor = np.sqrt(self.square / (1 - second**self.updates)) + EPSILON
        self.z = self.z - rate * (gradient / divisor + DECAY * decays * weight)
        self.weights += rate**2
        share = rate**2 / self.weights
        self.x = (1 - share) * self.x + share * self.z
        return (1 - first) * self.z + first * self.x


by_hand.OPTIMIZERS.update(adam=Adam, lamb=Lamb, lion=Lion, rmsprop=RMSprop, lars=Lars, adafactor=Adafactor, muon=Muon,
                          schedule_free=ScheduleFree)
OPTIONS = {"adam": ADAM, "lamb": ADAM, "lion": {"beta1": BETAS[0], "beta2": BETAS[1]},
           "rmsprop": {"beta2": BETAS[1], "epsilon": EPSILON, "momentum": MOMENTUM}, "lars": {"momentum": MOMENTUM},
           "adafactor": {"epsilon": EPSILON}, "muon": {**ADAM, "momentum": MOMENTUM}, "schedule_free": ADAM}
by_hand.OPTIONS.update({name: {**({} if name == "adam" else {"weight_decay": DECAY}), **options}
                        for name, options in OPTIONS.items()})
