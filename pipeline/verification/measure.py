"""Measures an experiment inside its process: steps, gradients, skipped steps, evaluations."""
import math
from collections.abc import Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from scipy.special import log_softmax

from pipeline.models.model_checks import departures
from pipeline.quantities import counted
from pipeline.training.losses import find_loss
from pipeline.training.settings import preprocess
from pipeline.training.step import TRAIN_COLUMNS, StepFunctions
from pipeline.verification.comparison import relative_difference
from pipeline.verification.report import Comparison

LOSS, APPLIED = TRAIN_COLUMNS.index("loss"), TRAIN_COLUMNS.index("applied")
EVALUATION_BOUND = 1e-10  # Of figures computed in float64.
LOSS_SCALE = 1024.0  # Before each bad gradient: half of it is still far from the smallest scale.


def unclaimed_parity(model: keras.Model, synchronize: bool) -> str:
    """Returns why N replicas need not compute the same as one with a built model, "" where they must.

    With `synchronize` batch statistics are those of all replicas.
    """
    found = departures(model, synchronize)
    return found[0][0] if found else ""


def training(experiment: Any, steps: int, kind: str = "") -> dict[str, np.ndarray]:
    """Trains from the start of the stream.

    Args:
      experiment: Experiment, newly built.
      steps: at least two.
      kind: prefix of the names.

    Returns:
      {"loss": float64 [steps], "names": str [n], "first_0", ...: the model's variables after the first step, in order,
      "variable_0", ...: after the last}.
    """
    iterator = experiment.train_iterator(0)
    rows: list[np.ndarray] = []
    arrays: dict[str, np.ndarray] = {}
    for count, name in ((1, "first"), (steps - 1, "variable")):
        rows.append(train(experiment, iterator, sum(map(len, rows)), count))
        arrays.update({f"{kind}{name}_{i}": keras.ops.convert_to_numpy(v)
                       for i, v in enumerate(experiment.state.model.variables)})
    return {f"{kind}loss": np.concatenate(rows)[:, LOSS], **arrays,
            "names": np.array([v.path for v in experiment.state.model.variables])}


def train(experiment: Any, iterator: Any, step: int, count: int) -> np.ndarray:
    """Runs `count` steps after `step` steps, across phases of the run; `iterator` is opened there.

    Returns:
      float64 [count, len(TRAIN_COLUMNS)].
    """
    rows: list[np.ndarray] = []
    while count:
        experiment.enter_phase(step)
        if step in experiment.plan.resized_at:
            iterator = experiment.train_iterator(step)
        points = (*experiment.plan.unfreeze_at, *experiment.plan.resized_at)
        part = min([count, *(point - step for point in points if point > step)])
        rows.append(experiment.steps.train_steps(iterator, tf.constant(part)).numpy())
        step, count = step + part, count - part
    return np.concatenate(rows)


def training_and_control(experiment: Any, steps: int, rounding: float) -> dict[str, np.ndarray]:
    """Trains twice from the start of the stream, the second time with every weight changed by one rounding error.

    The differences of the second training are those that rounding alone may cause.

    Args:
      experiment: Experiment in float64, newly built.
      steps: at least two.
      rounding: the relative error.

    Returns:
      The result of `training`, "exact_0", ...: the first gradient, and the same of the second training as
      "perturbed_loss", "perturbed_first_0", ...
    """
    state, rng = experiment.state, np.random.default_rng(0)
    variables = [*state.model.variables, *state.optimizer.variables, *state.ema, *state.counters().values()]
    begin = [keras.ops.convert_to_numpy(v) for v in variables]
    arrays = {**first_gradient(experiment, "exact"), **training(experiment, steps)}
    for variable, value in zip(variables, begin, strict=True):
        variable.assign(value)
    for variable in state.model.trainable_variables:
        value = keras.ops.convert_to_numpy(variable)
        variable.assign(value * (1 + rounding * rng.choice([-1, 1], value.shape)))
    return {**arrays, **first_gradient(experiment, "perturbed_exact"), **training(experiment, steps, "perturbed_")}


def first_gradient(experiment: Any, kind: str = "gradient") -> dict[str, np.ndarray]:
    """Returns the reduced gradient of the stream's first batch, without changing any state.

    Args:
      experiment: Experiment, newly built.
      kind: prefix of the names.

    Returns:
      {"gradient_names": str [n], "KIND_0", ...: in the order of the trainable variables}.
    """
    experiment.enter_phase(0)
    grads, _ = experiment.steps.reduced_gradients(experiment.train_iterator(0))
    return {"gradient_names": np.array([v.path for v in experiment.state.model.trainable_variables]),
            **{f"{kind}_{i}": g.numpy() for i, g in enumerate(grads)}}


def bad_gradients(experiment: Any) -> list[Comparison]:
    """Puts an Inf, then a NaN, into the gradient of one replica after the other, with a good step after each."""
    replicas = experiment.strategy.num_replicas_in_sync
    cases = [(value, replica) for value in (math.inf, math.nan) for replica in range(replicas)]
    steps = StepFunctions(experiment.strategy, experiment.state, experiment.steps.schedule, experiment.settings,
                          lambda grads, replica, step: poison(grads, replica, step, cases), experiment.steps.image_size)
    iterator, one = experiment.train_iterator(0), tf.constant(1)
    changed: list[tuple[float, str]] = []
    wrong: list[str] = []
    applied = steps.train_steps(iterator, one).numpy()[0, APPLIED]
    if not applied:
        wrong.append("a step with a good gradient was skipped")
    for skipped, (value, replica) in enumerate(cases, 1):
        if experiment.settings.scale_loss:
            experiment.state.loss_scale.assign(LOSS_SCALE)
        name = f"{'NaN' if math.isnan(value) else 'Inf'} on replica {replica}"
        before = copies(experiment)
        row = steps.train_steps(iterator, one).numpy()[0]
        changed.append((largest_change(before, copies(experiment)), name))
        wrong += [f"{name}: {what}" for what in miscounted(experiment, row, skipped)]
        if not steps.train_steps(iterator, one).numpy()[0, APPLIED]:
            wrong.append(f"{name}: the next step was skipped too")
    worst, name = max(changed)
    each = f"Inf, then NaN in the gradient of each of {counted(replicas, 'replica')}"
    scale = ", loss scale halved" if experiment.settings.scale_loss else ""
    return [Comparison("infinite", f"{each}: every variable, before and after", worst, 0.0, note=name),
            Comparison("infinite", f"{len(cases)} such steps counted as skipped{scale}, the next ones applied",
                       float(len(wrong)), 0.0, note=wrong[0] if wrong else "")]


def poison(grads: Sequence[Any], replica: Any, step: Any, cases: Sequence[tuple[float, int]]) -> list[Any]:
    """Puts a bad value into one element of one replica's first gradient, at the steps 1, 3, 5, ...

    Args:
      grads: list of float tensors.
      replica, step: int64 scalar tensors.
      cases: [(value, replica)]: case i is that of step 2i + 1.
    """
    case = tf.minimum(tf.maximum(step - 1, 0) // 2, len(cases) - 1)
    value = tf.gather(tf.constant([v for v, _ in cases], grads[0].dtype), case)
    chosen = tf.gather(tf.constant([r for _, r in cases], tf.int64), case)
    here = (step % 2 == 1) & (replica == chosen)
    first = tf.reshape(tf.range(grads[0].shape.num_elements()) == 0, grads[0].shape)
    return [tf.where(first & here, value, grads[0]), *grads[1:]]


def copies(experiment: Any) -> list[list[np.ndarray]]:
    """Returns the copies on the replicas of every variable of model, optimizer and averages.

    The learning rate is left out: it is a function of the step.
    """
    state, local = experiment.state, experiment.strategy.experimental_local_results
    kept = [v.value for v in (*state.model.variables, *state.optimizer.variables)
            if not v.path.endswith("learning_rate")]
    return [[np.array(copy.numpy()) for copy in local(value)] for value in (*kept, *state.ema)]


def largest_change(before: Sequence[Sequence[np.ndarray]], after: Sequence[Sequence[np.ndarray]]) -> float:
    """Returns the largest difference of any copy of a variable from its first copy before; infinite if not finite."""
    largest = 0.0
    for old, new in zip(before, after, strict=True):
        for copy in new:
            if not np.array_equal(copy, old[0]):
                change = np.max(np.abs(copy.astype(np.float64) - old[0]))
                largest = max(largest, float(change) if np.isfinite(change) else math.inf)
    return largest


def miscounted(experiment: Any, row: np.ndarray, skipped: int) -> list[str]:
    """Returns the counters that are wrong after a step was skipped, in words.

    Args:
      experiment: Experiment after the step.
      row: [len(TRAIN_COLUMNS)] float64 of the step.
      skipped: expected number of skipped steps; before each was one that was applied.
    """
    state = experiment.state
    expected = {"global_step": 2 * skipped, "skipped_steps": skipped,
                "position": 2 * skipped * experiment.settings.batch_size}
    if experiment.settings.scale_loss:
        expected["loss_scale"] = LOSS_SCALE / 2
    found = {name: getattr(state, name).numpy() for name in expected}
    wrong = [f"{name} is {found[name]:g} instead of {value:g}" for name, value in expected.items()
             if found[name] != value]
    return (["the step was applied"] if row[APPLIED] else []) + wrong


def ragged_sizes(num_examples: int, batch_size: int, replicas: int) -> list[int]:
    """Returns sizes that fit neither batch nor replicas, ascending, as far as there are examples."""
    return sorted({size for size in (1, replicas - 1, batch_size - 1, batch_size, batch_size + 1)
                   if 0 < size <= num_examples})


def ragged_evaluations(experiment: Any) -> list[Comparison]:
    """Evaluates parts of the test split (validation without one) whose sizes fit neither batch nor replicas.

    The reference calls the model without padding, and adds up example by example in float64.
    """
    layout, test = experiment.evaluation_layout(), experiment.source.final
    sizes = ragged_sizes(test.num_examples, layout.batch_size, layout.replicas)
    losses, correct = example_by_example(experiment, test, max(sizes))
    counts, figures = [], []
    for size in sizes:
        found = experiment.evaluate(test.select(np.arange(size)))
        counts.append((float(abs(found.examples - size)), f"size {size}"))
        for name, expected, value in (("loss", losses[:size].mean(), found.loss),
                                      ("accuracy", correct[:size].mean(), found.accuracy)):
            figures.append((relative_difference(np.array([expected]), np.array([value])), f"{name} of size {size}"))
    listed = ", ".join(map(str, sizes))
    (count, at), (figure, name) = max(counts), max(figures)
    return [Comparison("ragged", f"examples counted in evaluations of {listed}", count, 0.0, note=at),
            Comparison("ragged", "their loss and accuracy, against example by example, float64", figure,
                       EVALUATION_BOUND, note=name)]


def example_by_example(experiment: Any, split: Any, size: int) -> tuple[np.ndarray, np.ndarray]:
    """Returns (loss, 1 if correct) of the first examples of a split, float64 [size] each.

    Cross-entropy is computed in NumPy, another loss by its own function, in float64.
    """
    settings, model = experiment.settings, experiment.state.model
    rows = experiment.evaluation_layout().batch_size // experiment.evaluation_layout().replicas
    reader = split.select(np.arange(size)).reader
    losses, correct = [], []
    for images, labels in reader.in_order(0, rows, lambda images, labels, number: (images, labels)):
        logits = np.asarray(model(preprocess(images, settings), training=False), np.float64)
        labels = labels.numpy()
        losses.append(-log_softmax(logits, axis=1)[np.arange(len(labels)), labels] if settings.loss == "cross_entropy"
                      else find_loss(settings.loss)(tf.constant(logits), tf.constant(labels)).numpy())
        correct.append(logits.argmax(axis=1) == labels)
    return np.concatenate(losses), np.concatenate(correct).astype(np.float64)
