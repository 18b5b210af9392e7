"""The part `replicas` with models of users: layers pinned to float32, casts, and rounding that grows."""
import json

import keras
import numpy as np
import pytest

from pipeline import extension
from pipeline.config import ExperimentConfig
from pipeline.console import Console
from pipeline.data.load import load
from pipeline.models import model_checks, registry
from pipeline.verification import part_process
from pipeline.verification.comparison import compare_replicas
from tests import cures
from tests.commands import REPOSITORY
from tests.cures import PROVED, taken_out
from tests.selection import quick

FACTS = {"steps": 6, "precision": "float32", "normalized": True, "unclaimed": "", "rounding": "", "coarsest": "float64"}
PRECISION = {"pinned": "float32", "chaotic": "float64"}  # Below float64 the first gradient takes another experiment.
EXTENSION = str(REPOSITORY / "tests" / "extension" / "pinned.py")


@pytest.fixture(autouse=True, scope="module")
def nothing_left():
    """Removes the models that are registered here."""
    before = dict(registry.MODELS.registered)
    yield
    for name in set(registry.MODELS.registered) - set(before):
        del registry.MODELS.registered[name]


@pytest.fixture(scope="module")
def measured():
    """{(model, replicas, fault): arrays} of what was measured for another test already."""
    return {}


@pytest.fixture
def prove(strategy, tmp_path, measured):
    """Function of a model, and of functions to replace on two replicas, to the rows that one and two replicas give."""
    def rows(model, without=None):
        config = ExperimentConfig.from_flat({
            "dataset": "digits", "image_size": 8, "subset": 3, "batch_size": 16, "steps": 6, "model": model,
            "extension": (EXTENSION,), "optimizer": "adam", "learning_rate": 1e-3, "clip_norm": 0.1,
            "precision": PRECISION[model]})
        facts = {**FACTS, "precision": PRECISION[model]}
        source = load(config.data, 16, Console(quiet=True))
        for replicas, fault in ((1, None), (2, without)):
            key = model, replicas, str(fault)
            if key not in measured:
                with taken_out(fault or {}):
                    wide = part_process.build(part_process.parity_config(config), source, strategy(replicas))
                    assert {v.dtype for v in wide.state.model.trainable_variables} == {"float64"}
                    part_process.measure_replicas({"steps": 6, "folder": str(tmp_path)}, config, source, wide)
                with np.load(tmp_path / "arrays.npz") as arrays:
                    measured[key] = dict(arrays)
                assert json.loads((tmp_path / "facts.json").read_text()) == facts
        return compare_replicas(measured[model, 1, "None"], measured[model, 2, str(without)], 2, facts)
    return rows


@pytest.mark.acceptance  # In make test test_what_a_model_casts_in_its_call_is_found builds it.
def test_layers_and_weights_of_float32_are_made_wide(prove):
    rows = prove("pinned")
    assert [row.verdict for row in rows] == ["ok"] * 3 and max(row.difference for row in rows[:2]) < 1e-12


def test_a_model_that_makes_rounding_grow_agrees_as_far_as_it_is_stable(prove):
    loss, variables, gradient = prove("chaotic")
    assert loss.verdict == variables.verdict == "ok" and loss.difference > 1e-4  # A lot, and no fault.
    assert "agrees as far as the model is stable: a perturbation of one rounding error grows to" in loss.compared
    assert loss.note.startswith("first at step ") and gradient.verdict != "VIOLATED"


@pytest.mark.parametrize("without", quick([
    {"pipeline.distributed.reduction:reduce_once": cures.last_replica_lost,
     "pipeline.training.self_test:check_reduction": lambda *arguments: None},
    PROVED["gradients are clipped on each replica"].without]))
def test_a_fault_is_seen_in_a_model_that_makes_rounding_grow(prove, without):
    loss, variables, _ = prove("chaotic", without)
    assert loss.verdict == variables.verdict == "VIOLATED"
    assert loss.note.startswith("first at step 2, ") and "a perturbation of one rounding error grows to" in loss.note


@pytest.mark.parametrize("name, dtype", [("pinned", "float64"), ("casting", "float32")])
def test_what_a_model_casts_in_its_call_is_found(name, dtype):
    extension.load((EXTENSION,))
    before = keras.config.floatx(), keras.config.dtype_policy()
    keras.config.set_floatx("float64")
    keras.config.set_dtype_policy("float64")
    try:
        found = model_checks.coarsest_dtype(registry.create(name, 10, (8, 8, 1)), (8, 8, 1))
    finally:
        keras.config.set_floatx(before[0])
        keras.config.set_dtype_policy(before[1])
    assert found == dtype and model_checks.rounding_error(found) == {"float64": 2**-52, "float32": 2**-23}[dtype]
