"""Small experiments on digits for the tests of training."""
import keras
import numpy as np
import pytest

from pipeline.config import ExperimentConfig
from pipeline.console import Console
from pipeline.data.load import load
from pipeline.training import experiment as experiments
from pipeline.verification import measure

DIGITS = {}
TRIED = set()  # (replicas, precision): what the self-test of the reduction has passed in this process.


def build(strategy, stored=None, **options):
    """Returns an Experiment on digits with quick defaults for other options; sets the dtype policy.

    The self-test of the reduction, a third of a second, runs once for each number of replicas and precision. `stored`:
    config.json of a run that is continued, or None.
    """
    options = {"model": "mlp", "batch_size": 16, "steps": 20, "precision": "float64", "seed": 3, **options}
    config = ExperimentConfig.from_flat(options)
    precision = config.runtime.precision
    keras.config.set_floatx("float64" if precision == "float64" else "float32")
    keras.config.set_dtype_policy(precision)
    keras.utils.set_random_seed(config.training.seed)
    key = (config.data, config.training.batch_size)
    if key not in DIGITS:
        DIGITS[key] = load(config.data, config.training.batch_size, Console(quiet=True))
    tried = (strategy.num_replicas_in_sync, precision)
    with pytest.MonkeyPatch.context() as patch:
        if tried in TRIED:
            patch.setattr(experiments, "check_reduction", lambda *arguments: None)
        TRIED.add(tried)
        return experiments.build(config, DIGITS[key], strategy, stored)


def run(experiment, steps, start=0):
    """Runs steps after `start` steps of the stream; returns the rows [steps, k] float64.

    Where the call before ended at `start`, its stream is read on: to open one takes longer than such a step.
    """
    end, iterator = vars(experiment).get("read_on", (None, None))
    iterator = iterator if end == start else experiment.train_iterator(start)
    rows = measure.train(experiment, iterator, start, steps)
    if not experiment.resident and not experiment.plan.resized_at:  # Those have more than one iterator.
        vars(experiment)["read_on"] = start + steps, iterator
    return rows


def weights(experiment):
    """Returns the model's variables as numpy arrays, in order."""
    return [keras.ops.convert_to_numpy(v) for v in experiment.state.model.variables]


def copies(experiment):
    """Returns for each model variable the list of its copies on the replicas."""
    local = experiment.strategy.experimental_local_results
    return [[np.asarray(c) for c in local(v.value)] for v in experiment.state.model.variables]


def distance(first, second):
    """Returns the largest relative difference of two lists of arrays: norm of difference over max(norm, 1e-3)."""
    return max(np.linalg.norm(a - b) / max(np.linalg.norm(a), 1e-3) for a, b in zip(first, second, strict=True))
