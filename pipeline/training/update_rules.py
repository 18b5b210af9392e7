"""Optimizers that Keras lacks, or computes otherwise than the papers whose settings one wants to use.

Gradients are reduced already. Slots are 0, and those of `RMSprop` 1, until a variable first trains; what depends on
the number of updates follows `iterations`: so a variable that begins to train later begins as in a new optimizer.
"""
from collections.abc import Sequence
from typing import Any

import keras
import tensorflow as tf

from pipeline.internals.keras_internals import DecaysInside

TRUST = 1e-3  # Of LARS: the length of an update over that of the weights, at a learning rate of 1.
SCALE_FLOOR = 1e-3  # Of Adafactor, its second epsilon: the least root mean square of weights by which updates scale.
DECAY_POWER = 0.8  # Of Adafactor: the mean of squares has the decay 1 - t^-0.8 at the update t.
NEWTON_SCHULZ = (3.4445, -4.7750, 2.0315)  # Coefficients of Muon's iteration, of which there are 5.
MUON_RMS = 0.2  # Root mean square of an update of Muon, about that of AdamW (arXiv:2502.16982).
LEAST_NORM = 1e-7  # Added to norms that divide.


class RMSprop(keras.optimizers.RMSprop):
    """RMSprop as TensorFlow 1 has it, for which EfficientNet's and MobileNet's settings are.

    Epsilon is inside of the root, as in Keras, and the mean of squares begins at 1 instead of 0: first updates are
    short.
    """

    def build(self, var_list: Sequence[keras.Variable]) -> None:
        """Creates the slots."""
        if self.built:
            return
        super().build(var_list)
        for velocity in self._velocities:
            velocity.assign(tf.ones(velocity.shape, velocity.dtype))


class Lars(DecaysInside, keras.optimizers.Optimizer):
    """LARS (You et al., arXiv:1708.03888): each weight's rate is in proportion to its norm over that of its gradient.

    Weight decay is part of the gradient, as in the paper. What is excluded from it and vectors have the plain rate.

    Args:
      momentum: in [0, 1).
    """

    def __init__(self, learning_rate: float = 0.1, momentum: float = 0.9, **kwargs: Any):
        super().__init__(learning_rate=learning_rate, **kwargs)
        self.momentum = momentum

    def build(self, variables: Sequence[keras.Variable]) -> None:
        """Creates the slots."""
        super().build(variables)
        self._momentums = self.add_optimizer_variables(variables, "momentum")

    def update_step(self, gradient: tf.Tensor, variable: tf.Variable, learning_rate: tf.Tensor) -> None:
        """Updates one variable."""
        dtype, weight = variable.dtype, tf.convert_to_tensor(variable)
        rate, momentum = tf.cast(learning_rate, dtype), self._momentums[self._get_variable_index(variable)]
        decay = tf.constant(self.decay_of(variable), dtype)
        if len(variable.shape) > 1:
            length, slope = tf.norm(weight), tf.norm(gradient)
            trust = tf.constant(TRUST, dtype) * length / (slope + decay * length + tf.constant(LEAST_NORM, dtype))
            rate *= tf.where((length > 0) & (slope > 0), trust, tf.ones([], dtype))
        moved = tf.constant(self.momentum, dtype) * momentum.value + rate * (gradient + decay * weight)
        self.assign(momentum, moved)
        self.assign_sub(variable, moved)


class Lamb(DecaysInside, keras.optimizers.Lamb):
    """LAMB (You et al., arXiv:1904.00962): Adam, with updates of a matrix as long as the matrix times the rate.

    Weight decay is part of the update whose length counts, as in the paper; Keras's own decays beside it. Vectors have
    the plain rate, as in the authors' code.
    """

    def update_step(self, gradient: tf.Tensor, variable: tf.Variable, learning_rate: tf.Tensor) -> None:
        """Updates one variable."""
        dtype, index = variable.dtype, self._get_variable_index(variable)
        weight, rate, step = tf.convert_to_tensor(variable), tf.cast(learning_rate, dtype), self.iterations.value + 1
        first, second, epsilon = (tf.constant(value, dtype) for value in (self.beta_1, self.beta_2, self.epsilon))
        momentum, velocity, step = self._momentums[index], self._velocities[index], tf.cast(step, dtype)
        mean = momentum.value + (gradient - momentum.value) * (1 - first)
        square = velocity.value + (tf.square(gradient) - velocity.value) * (1 - second)
        self.assign(momentum, mean)
        self.assign(velocity, square)
        update = mean / (1 - first ** step) / (tf.sqrt(square / (1 - second ** step)) + epsilon)
        update += tf.constant(self.decay_of(variable), dtype) * weight
        if len(variable.shape) > 1:
            lengths = tf.norm(weight), tf.norm(update)
            rate *= tf.where((lengths[0] > 0) & (lengths[1] > 0), lengths[0] / lengths[1], tf.ones([], dtype))
        self.assign_sub(variable, rate * update)


class Adafactor(keras.optimizers.Optimizer):
    """Adafactor (Shazeer and Stern, arXiv:1804.04235, algorithms 4 and 5) with the learning rate of the schedule.

    Of arrays with two or more axes the mean of squares is kept as its means over the last and the last but one axis.
    An update is as long as the root mean square of the weights times the rate. Keras's own keeps the whole array too,
    and no rate of it is above 1/sqrt(t), whatever the schedule.

    Args:
      epsilon: added to squares of gradients.
    """

    def __init__(self, learning_rate: float = 0.01, epsilon: float = 1e-30, **kwargs: Any):
        super().__init__(learning_rate=learning_rate, **kwargs)
        self.epsilon = epsilon

    def build(self, variables: Sequence[keras.Variable]) -> None:
        """Creates the slots."""
        super().build(variables)
        self._squares = []
        for variable in variables:
            shape = tuple(variable.shape)
            kept = [shape[:-1], (*shape[:-2], shape[-1])] if len(shape) > 1 else [shape]
            self._squares.append([self.add_variable(part, dtype=variable.dtype, name=f"{variable.name}_square{i}")
                                  for i, part in enumerate(kept)])

    def update_step(self, gradient: tf.Tensor, variable: tf.Variable, learning_rate: tf.Tensor) -> None:
        """Updates one variable."""
        dtype, squares = variable.dtype, self._squares[self._get_variable_index(variable)]
        fresh = tf.cast(self.iterations.value + 1, dtype) ** tf.constant(-DECAY_POWER, dtype)
        square = tf.square(gradient) + tf.constant(self.epsilon, dtype)
        means = [tf.reduce_mean(square, axis) for axis in (-1, -2)] if len(squares) > 1 else [square]
        means = [kept.value + fresh * (mean - kept.value) for kept, mean in zip(squares, means, strict=True)]
        for kept, mean in zip(squares, means, strict=True):
            self.assign(kept, mean)
        if len(means) > 1:
            rows, columns = means
            estimate = (rows / tf.reduce_mean(rows, -1, keepdims=True))[..., None] * columns[..., None, :]
        else:
            estimate, = means
        update = gradient * tf.math.rsqrt(estimate)
        update /= tf.maximum(_rms(update), tf.ones([], dtype))
        scale = tf.maximum(_rms(tf.convert_to_tensor(variable)), tf.constant(SCALE_FLOOR, dtype))
        self.assign_sub(variable, tf.cast(learning_rate, dtype) * scale * update)


class Muon(keras.optimizers.Optimizer):
    """Muon (Jordan et al. 2024): the momentum of a matrix, orthogonalized; AdamW for everything else.

    A kernel of a convolution is a matrix of as many columns as filters. AdamW has what is no kernel of two or four
    axes, has a single row or column (depthwise convolutions), is an embedding, or was left out: the last layer.
    Updates have the root mean square of AdamW's (arXiv:2502.16982), so that both share learning rate and decay. Keras's
    own gives every convolution to AdamW.

    Args:
      momentum: of the matrices, in Nesterov's form.
      beta_1, beta_2, epsilon: of AdamW.
    """

    def __init__(self, learning_rate: float = 0.001, momentum: float = 0.95, beta_1: float = 0.9, beta_2: float = 0.999,
                 epsilon: float = 1e-7, **kwargs: Any):
        super().__init__(learning_rate=learning_rate, **kwargs)
        self.momentum, self.beta_1, self.beta_2, self.epsilon = momentum, beta_1, beta_2, epsilon
        self._left_out: frozenset[int] = frozenset()

    def leave_out(self, variables: Sequence[keras.Variable]) -> None:
        """Gives variables to AdamW; before `build`."""
        self._left_out = frozenset(id(variable) for variable in variables)

    def is_matrix(self, variable: keras.Variable) -> bool:
        """Tells whether the update of a variable is orthogonalized."""
        shape = variable.shape
        return (len(shape) in (2, 4) and min(shape[-1], _rows(shape)) > 1 and "embedding" not in variable.path.lower()
                and id(variable) not in self._left_out)

    def build(self, variables: Sequence[keras.Variable]) -> None:
        """Creates the slots."""
        super().build(variables)
        self._momentums, self._velocities = [], []
        for variable in variables:
            self._momentums.append(self.add_variable_from_reference(variable, name="momentum"))
            self._velocities.append(None if self.is_matrix(variable)
                                    else self.add_variable_from_reference(variable, name="velocity"))

    def update_step(self, gradient: tf.Tensor, variable: tf.Variable, learning_rate: tf.Tensor) -> None:
        """Updates one variable."""
        dtype, index = variable.dtype, self._get_variable_index(variable)
        rate, momentum, velocity = tf.cast(learning_rate, dtype), self._momentums[index], self._velocities[index]
        if velocity is not None:
            self._update_by_adam(gradient, variable, rate, momentum, velocity)
            return
        moved, factor = gradient + tf.constant(self.momentum, dtype) * momentum.value, tf.constant(self.momentum, dtype)
        self.assign(momentum, moved)
        rows, columns = _rows(variable.shape), variable.shape[-1]
        update = orthogonalized(tf.reshape(gradient + factor * moved, [rows, columns]))
        scale = tf.constant(MUON_RMS * max(rows, columns) ** 0.5, dtype)
        self.assign_sub(variable, rate * scale * tf.reshape(update, variable.shape))

    def _update_by_adam(self, gradient, variable, rate, momentum, velocity):
        dtype, step = variable.dtype, tf.cast(self.iterations.value + 1, variable.dtype)
        first, second, epsilon = (tf.constant(value, dtype) for value in (self.beta_1, self.beta_2, self.epsilon))
        mean = momentum.value + (gradient - momentum.value) * (1 - first)
        square = velocity.value + (tf.square(gradient) - velocity.value) * (1 - second)
        self.assign(momentum, mean)
        self.assign(velocity, square)
        rate *= tf.sqrt(1 - second ** step) / (1 - first ** step)
        self.assign_sub(variable, rate * mean / (tf.sqrt(square) + epsilon))


class ScheduleFreeAdamW(DecaysInside, keras.optimizers.Optimizer):
    """Schedule-free AdamW (Defazio et al., arXiv:2405.15682, algorithm 1).

    The model's weights are y, at which gradients are taken. `averaged` is the x of the paper, to be evaluated: a mean
    of the iterates z in proportion to the square of their learning rates. The slot "lead" is z - y, so
    x = y - (1 / beta_1 - 1) * lead. Keras's own evaluates y, decays x, and does not weight.

    Args:
      beta_1: of the interpolation, in (0, 1).
      beta_2, epsilon: of Adam.
    """

    def __init__(self, learning_rate: float = 0.0025, beta_1: float = 0.9, beta_2: float = 0.999, epsilon: float = 1e-8,
                 **kwargs: Any):
        super().__init__(learning_rate=learning_rate, **kwargs)
        self.beta_1, self.beta_2, self.epsilon = beta_1, beta_2, epsilon

    def build(self, variables: Sequence[keras.Variable]) -> None:
        """Creates the slots."""
        super().build(variables)
        self._leads, self._velocities = self.add_optimizer_variables(variables, ["lead", "velocity"])
        self._weights = [self.add_variable((), dtype=v.dtype, name=f"{v.name}_weight") for v in variables]

    def lead_of(self, variable: keras.Variable) -> tf.Variable:
        """Returns the slot z - y of a variable of the model."""
        return self._leads[self._get_variable_index(variable)].value

    def averaged(self, weight: tf.Tensor, lead: tf.Tensor) -> tf.Tensor:
        """Returns the average of weights y with the slot z - y, of their shape and dtype."""
        return weight - tf.constant(1 / self.beta_1 - 1, weight.dtype) * lead

    def update_step(self, gradient: tf.Tensor, variable: tf.Variable, learning_rate: tf.Tensor) -> None:
        """Updates one variable."""
        dtype, index = variable.dtype, self._get_variable_index(variable)
        rate, weight, step = tf.cast(learning_rate, dtype), tf.convert_to_tensor(variable), self.iterations.value + 1
        lead, velocity, total = self._leads[index], self._velocities[index], self._weights[index]
        first, second, epsilon = (tf.constant(value, dtype) for value in (self.beta_1, self.beta_2, self.epsilon))
        square = velocity.value + (tf.square(gradient) - velocity.value) * (1 - second)
        self.assign(velocity, square)
        divisor = tf.sqrt(square / (1 - second ** tf.cast(step, dtype))) + epsilon
        update = gradient / divisor + tf.constant(self.decay_of(variable), dtype) * weight
        weights = total.value + tf.square(rate)
        self.assign(total, weights)
        share = tf.square(rate) / weights
        left = (1 - share) * first * rate * update
        self.assign(variable, weight + share * lead.value + left - rate * update)
        self.assign(lead, (1 - share) * lead.value - left)


def orthogonalized(matrix: tf.Tensor) -> tf.Tensor:
    """Moves the singular values of a matrix near to 1, by five steps of a Newton-Schulz iteration.

    Args:
      matrix: [rows, columns] float.

    Returns:
      The same shape and dtype.
    """
    wide = matrix if matrix.shape[0] <= matrix.shape[1] else tf.transpose(matrix)
    a, b, c = (tf.constant(value, matrix.dtype) for value in NEWTON_SCHULZ)
    wide /= tf.norm(wide) + tf.constant(LEAST_NORM, matrix.dtype)
    for _ in range(5):
        square = tf.matmul(wide, wide, transpose_b=True)
        wide = a * wide + tf.matmul(b * square + c * tf.matmul(square, square), wide)
    return wide if matrix.shape[0] <= matrix.shape[1] else tf.transpose(wide)


def _rows(shape):
    """Returns the product of all axes but the last."""
    rows = 1
    for size in shape[:-1]:
        rows *= size
    return rows


def _rms(values):
    return tf.sqrt(tf.reduce_mean(tf.square(values)))
