"""What an experiment computes, measured inside its process: steps, gradients, skipped steps, evaluations."""
import math

import keras
import numpy as np
import tensorflow as tf

from pipeline.models.model_checks import departures
from pipeline.quantities import counted
from pipeline.training.settings import preprocess
from pipeline.training.step import TRAIN_COLUMNS, StepFunctions
from pipeline.verification.comparison import relative_difference
from pipeline.verification.report import Row

LOSS, APPLIED = TRAIN_COLUMNS.index("loss"), TRAIN_COLUMNS.index("applied")
EVALUATION_BOUND = 1e-10  # Of figures computed in float64.
LOSS_SCALE = 1024.0  # Before each bad gradient: half of it is still far from the smallest scale.


def unclaimed_parity(model, synchronize):
    """Returns why N replicas need not compute what one does for a model, "" where they have to.

    Args:
      model: a built keras.Model.
      synchronize: whether batch statistics are taken over all replicas.
    """
    found = departures(model, synchronize)
    return found[0][0] if found else ""


def training(experiment, steps, kind=""):
    """Trains from the start of the stream.

    Args:
      experiment: Experiment, freshly built.
      steps: how many, two at least.
      kind: prefix of the names.

    Returns:
      {"loss": float64 [steps], "names": str [n], "first_0", ...: the model's variables after the first step, in order,
      "variable_0", ...: after the last}.
    """
    iterator, rows, arrays = experiment.train_iterator(0), [], {}
    for count, name in ((1, "first"), (steps - 1, "variable")):
        rows.append(experiment.steps.train_steps(iterator, tf.constant(count)).numpy())
        arrays.update({f"{kind}{name}_{i}": keras.ops.convert_to_numpy(v)
                       for i, v in enumerate(experiment.state.model.variables)})
    return {f"{kind}loss": np.concatenate(rows)[:, LOSS], **arrays,
            "names": np.array([v.path for v in experiment.state.model.variables])}


def training_and_control(experiment, steps, rounding):
    """Trains twice from the start of the stream, the second time with every weight moved by one rounding error.

    How far that takes the second training from the first is how far rounding alone may take any other.

    Args:
      experiment: Experiment in float64, freshly built.
      steps: how many, two at least.
      rounding: the relative error.

    Returns:
      What `training` returns, "exact_0", ...: the first gradient, and the same of the second training as
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


def first_gradient(experiment, kind="gradient"):
    """Returns the reduced gradient of the stream's first batch, and moves nothing.

    Args:
      experiment: Experiment, freshly built.
      kind: how the arrays are called.

    Returns:
      {"gradient_names": str [n], "KIND_0", ...: in the order of the trainable variables}.
    """
    grads, _ = experiment.steps.reduced_gradients(experiment.train_iterator(0))
    return {"gradient_names": np.array([v.path for v in experiment.state.model.trainable_variables]),
            **{f"{kind}_{i}": g.numpy() for i, g in enumerate(grads)}}


def bad_gradients(experiment):
    """Puts an Inf, then a NaN, into the gradient of each replica in turn; between them are steps without.

    Args:
      experiment: Experiment, freshly built.

    Returns:
      list of Row.
    """
    replicas = experiment.strategy.num_replicas_in_sync
    cases = [(value, replica) for value in (math.inf, math.nan) for replica in range(replicas)]
    steps = StepFunctions(experiment.strategy, experiment.state, experiment.steps.schedule, experiment.settings,
                          fault=lambda grads, replica, step: poison(grads, replica, step, cases))
    iterator, changed, wrong = experiment.train_iterator(0), [], []
    one = tf.constant(1)
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
    return [Row("infinite", f"{each}: every variable, before and after", worst, 0.0, note=name),
            Row("infinite", f"{len(cases)} such steps counted as skipped{scale}, the next ones applied",
                float(len(wrong)), 0.0, note=wrong[0] if wrong else "")]


def poison(grads, replica, step, cases):
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


def copies(experiment):
    """Returns every variable of model, optimizer and averages: for each a list of its replicas' copies.

    The learning rate is left out: it belongs to the step, not to what was learnt.
    """
    state, local = experiment.state, experiment.strategy.experimental_local_results
    kept = [v.value for v in (*state.model.variables, *state.optimizer.variables)
            if not v.path.endswith("learning_rate")]
    return [[np.array(copy.numpy()) for copy in local(value)] for value in (*kept, *state.ema)]


def largest_change(before, after):
    """Returns how far any copy of any variable is from what its first copy was before; infinite where not finite."""
    largest = 0.0
    for old, new in zip(before, after, strict=True):
        for copy in new:
            if not np.array_equal(copy, old[0]):
                change = np.max(np.abs(copy.astype(np.float64) - old[0]))
                largest = max(largest, float(change) if np.isfinite(change) else math.inf)
    return largest


def miscounted(experiment, row, skipped):
    """Lists in words which counters are not what they are after a skipped step.

    Args:
      experiment: Experiment after the step.
      row: [len(TRAIN_COLUMNS)] float64 of the step.
      skipped: how many steps are to be skipped so far; one step before each was not.
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


def ragged_sizes(num_examples, batch_size, replicas):
    """Returns the sizes that do not fit a batch or the replicas, as many as there are examples for, ascending."""
    return sorted({size for size in (1, replicas - 1, batch_size - 1, batch_size, batch_size + 1)
                   if 0 < size <= num_examples})


def ragged_evaluations(experiment):
    """Evaluates parts of the test split (validation where there is none) whose sizes fit neither batch nor replicas.

    The reference calls the model on the examples alone, without padding, and adds up example by example in float64.

    Args:
      experiment: Experiment in float64.

    Returns:
      list of Row.
    """
    layout, test = experiment.evaluation_layout(), experiment.source.final
    sizes = ragged_sizes(test.num_examples, layout.batch_size, layout.replicas)
    loss, hit = example_by_example(experiment, test, max(sizes))
    counted, apart = [], []
    for size in sizes:
        judged = experiment.evaluate(test.select(np.arange(size)))
        counted.append((float(abs(judged.examples - size)), f"size {size}"))
        for name, expected, found in (("loss", loss[:size].mean(), judged.loss),
                                      ("accuracy", hit[:size].mean(), judged.accuracy)):
            apart.append((relative_difference(np.array([expected]), np.array([found])), f"{name} of size {size}"))
    listed = ", ".join(map(str, sizes))
    (examples, at), (figure, name) = max(counted), max(apart)
    return [Row("ragged", f"examples counted in evaluations of {listed}", examples, 0.0, note=at),
            Row("ragged", "their loss and accuracy, against example by example, float64", figure, EVALUATION_BOUND,
                note=name)]


def example_by_example(experiment, split, size):
    """Returns (loss in nats, hit) of the first examples of a split, two float64 arrays [size]."""
    settings, model = experiment.settings, experiment.state.model
    rows = experiment.evaluation_layout().batch_size // experiment.evaluation_layout().replicas
    reader = split.select(np.arange(size)).reader
    losses, hits = [], []
    for images, labels in reader.in_order(0, rows, lambda images, labels, number: (images, labels)):
        logits = np.asarray(model(preprocess(images, settings), training=False), np.float64)
        shifted = logits - logits.max(axis=1, keepdims=True)
        labels = labels.numpy()
        losses.append(np.log(np.exp(shifted).sum(axis=1)) - shifted[np.arange(len(labels)), labels])
        hits.append(logits.argmax(axis=1) == labels)
    return np.concatenate(losses), np.concatenate(hits).astype(np.float64)
