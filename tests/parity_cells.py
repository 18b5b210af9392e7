"""One replica against several: what a model computes on each, side by side, and how far apart it is.

    python -m tests.parity_cells cnn 1,2,4
"""
import json
import subprocess
import sys
import time

from tests.commands import REPOSITORY, environment

# On black pixels a convolution gives exactly its bias, which starts at 0, on the kink of the ReLU: there the sign of a
# rounding error decides, and no two orders of summation agree. Normalized images have no zeros.
PARITY = dict(normalize="per_channel")
EVERYTHING = dict(**PARITY, optimizer="adamw", weight_decay=0.05, l2=1e-4, clip_norm=1.0, label_smoothing=0.1,
                  augment=("flip", "crop", "mixup"), learning_rate=1e-3)
# Adam divides a gradient by its own size: in float32 the rounding of one that is almost 0 moves a weight as far as a
# true one would. Plain SGD keeps rounding as small as it is.
SINGLE = {**EVERYTHING, "precision": "float32", "optimizer": "sgd", "learning_rate": 1e-2}
STEPS, FLOAT64_BOUND = 50, 1e-8
BATCHES, SINGLE_STEPS, FLOAT32_BOUND = 5, 3, 1e-4


def double(strategy, model, replicas, steps=STEPS, **options):
    """Trains in float64; returns (losses [steps], the model's variables, their paths), NumPy arrays in order."""
    from tests.training.small import build, run, weights
    experiment = build(strategy(replicas), model=model, steps=steps, **{**EVERYTHING, **options})
    rows = run(experiment, steps)
    return rows[:, 0], weights(experiment), [v.path for v in experiment.state.model.variables]


def single(strategy, model, replicas, steps=SINGLE_STEPS, **options):
    """Returns (gradients of the first batches at the initial weights [batch][variable], losses [steps]), float32."""
    from tests.training.small import build, run
    experiment = build(strategy(replicas), model=model, **{**SINGLE, **options})
    iterator = experiment.train_iterator(0)
    gradients = [[g.numpy() for g in experiment.steps.reduced_gradients(iterator)[0]] for _ in range(BATCHES)]
    return gradients, run(experiment, steps)[:, 0] if steps else []


def compare_double(one, several):
    """Returns {"loss": largest relative difference of a step, "variable": of a variable, "of": its path}."""
    from tests.training.small import distance
    distances = [distance([a], [b]) for a, b in zip(one[1], several[1], strict=True)]
    return {"loss": float(max(abs(one[0] / several[0] - 1))), "variable": float(max(distances)),
            "of": one[2][distances.index(max(distances))]}


def compare_single(one, several):
    """Returns {"gradients": the largest relative difference of a tensor for each batch, "loss": of a step}."""
    from tests.training.small import distance
    return {"gradients": [float(distance(a, b)) for a, b in zip(one[0], several[0], strict=True)],
            "loss": max((float(abs(a / b - 1)) for a, b in zip(one[1], several[1], strict=True)), default=0.0)}


def check_double(found):
    """Asserts the bounds on what compare_double gave."""
    assert found["loss"] < FLOAT64_BOUND and found["variable"] < FLOAT64_BOUND, found


def check_single(found):
    """Asserts the bounds on what compare_single gave."""
    assert max(*found["gradients"], found["loss"]) < FLOAT32_BOUND, found


def parity(model, replicas=(1, 2, 4)):
    """Compares a model on digits of 28x28 pixels, in a process of its own: asserts the bounds and returns the figures.

    Args:
      model: its name.
      replicas: numbers of replicas; the first is what the others are compared with.

    Returns:
      {"float64": {replicas: see compare_double}, "float32": {replicas: see compare_single}, "seconds": float}.
    """
    began = time.monotonic()
    command = [sys.executable, "-m", "tests.parity_cells", model, ",".join(map(str, replicas))]
    done = subprocess.run(command, cwd=REPOSITORY, env=environment(), text=True, capture_output=True, timeout=3600,
                          stdin=subprocess.DEVNULL)
    assert done.returncode == 0, done.stderr[-2000:]
    found = json.loads(done.stdout.splitlines()[-1])
    for several in found["float64"].values():
        check_double(several)
    for several in found["float32"].values():
        check_single(several)
    return {**found, "seconds": round(time.monotonic() - began, 1)}


def main(model, replicas):
    """Prints the figures of one model as a line of JSON."""
    from tests.replicas import strategy
    counts, found = [int(n) for n in replicas.split(",")], {}
    for name, measure, compare in (("float64", double, compare_double), ("float32", single, compare_single)):
        one = measure(strategy, model, counts[0], batch_size=16)
        found[name] = {n: compare(one, measure(strategy, model, n, batch_size=16)) for n in counts[1:]}
    print(json.dumps(found))


if __name__ == "__main__":
    main(*sys.argv[1:])
