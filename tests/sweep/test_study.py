"""Proposed values and pruning: the same whether a sweep was resumed or not."""
import dataclasses
import json
import math
import sys

import pytest

from pipeline.sweep import study
from pipeline.sweep.records import FAILED, FINISHED, PRUNED, RUNNING, Trial
from pipeline.sweep.space import parse_space

SPACE = parse_space("learning_rate=log:1e-4..1e-1,batch_size=16|32|64,label_smoothing=0..0.2,optimizer=adam|sgd")


def accuracy(values):
    """A stand-in for training: best at a learning rate of 0.01, a little better with adam."""
    return round(0.9 - 0.1 * abs(math.log10(values["learning_rate"]) + 2) + 0.01 * (values["optimizer"] == "adam"), 6)


def trial(number, values, *figures, status=FINISHED):
    """Returns a Trial with these accuracies at its evaluations."""
    return Trial(number, values, status, [{"step": 10 * i, "epoch": float(i), "accuracy": figure, "loss": 1.0 - figure}
                                          for i, figure in enumerate(figures, 1)])


def stored(trials):
    """Returns the trials as another process reads them."""
    return [Trial(**one) for one in json.loads(json.dumps([dataclasses.asdict(one) for one in trials]))]


def sweep(search, count, seed=0, space=SPACE, killed=()):
    """Returns the trials of a sweep; before the trials `killed` it is resumed."""
    trials = []
    while len(trials) < count:
        if len(trials) + 1 in killed:
            trials = stored(trials)
        values = study.propose(space, trials, search, seed, "accuracy")
        trials.append(trial(len(trials) + 1, values, accuracy(values)))
    return trials


@pytest.mark.parametrize("search", ["random", "bayesian"])
def test_a_resumed_sweep_proposes_what_an_uninterrupted_one_does(search):
    whole, killed = sweep(search, 16), sweep(search, 16, killed=(2, 7, 13))
    assert [study.plain(one.values) for one in whole] == [study.plain(one.values) for one in killed]
    assert len({json.dumps(study.plain(one.values)) for one in whole}) == 16
    other = sweep(search, 3, seed=1)
    assert [one.values for one in other] != [one.values for one in whole[:3]]


def test_random_values_are_spread_over_the_space():
    trials = sweep("random", 60)
    for name, domain in SPACE.domains.items():
        values = [one.values[name] for one in trials]
        if name in ("batch_size", "optimizer"):
            assert all(values.count(value) >= 8 for value in domain.values)
        else:
            assert domain.low <= min(values) and max(values) <= domain.high
    rates = [math.log10(one.values["learning_rate"]) for one in trials]
    assert all(sum(-4 + i <= rate < -3 + i for rate in rates) >= 10 for i in range(3))  # In every decade.


def test_bayesian_search_exploits_good_regions():
    late = sweep("bayesian", 40)[20:]
    near = [one for one in late if abs(math.log10(one.values["learning_rate"]) + 2) < 0.75]
    assert len(near) > 13  # Half of them would be by chance.


def test_bayesian_search_avoids_regions_where_trials_fail():
    trials = []
    for number in range(1, 41):
        values = study.propose(SPACE, trials, "bayesian", 1, "accuracy")
        if values["batch_size"] == 64:
            trials.append(trial(number, values, status=FAILED))
        else:
            trials.append(trial(number, values, accuracy(values)))
    assert sum(one.status == FAILED for one in trials[20:]) < 4  # It is a third of the space.


def test_a_small_space_is_searched_without_repetition():
    space = parse_space("batch_size=16|32|64,optimizer=adam|sgd")
    for search in ("random", "bayesian", "grid"):
        trials = []
        for number in range(1, 7):
            trials.append(trial(number, study.propose(space, trials, search, 0, "accuracy"), 0.5))
        assert len({json.dumps(one.values) for one in trials}) == 6, search
        if search == "grid":
            assert [one.values for one in trials] == list(space.grid())


def values_of(number):
    return {"learning_rate": 0.001 * number, "batch_size": 32, "label_smoothing": 0.1, "optimizer": "adam"}


@pytest.mark.parametrize("pruner, figures, hopeless", [
    ("median", (0.1,), False),  # The first evaluation says little.
    ("median", (0.1, 0.2), True), ("median", (0.1, 0.8), False), ("median", (0.6, 0.2), False),  # The best one counts.
    ("halving", (0.1,), True), ("halving", (0.9,), False), ("none", (0.0, 0.0), False)])
def test_hopeless_trials_are_pruned(pruner, figures, hopeless):
    trials = []
    for number, last in enumerate((0.5, 0.55, 0.6, 0.65, 0.7), 1):
        trials.append(trial(number, values_of(number), last - 0.2, last))
        for seen in (1, 2):
            before = dataclasses.replace(trials[-1], evaluations=trials[-1].evaluations[:seen], status=RUNNING)
            study.is_hopeless(pruner, SPACE, [*trials[:-1], before], before, "accuracy")
            trials[-1].rungs = before.rungs
    one = trial(6, values_of(6), *figures, status=RUNNING)
    assert study.is_hopeless(pruner, SPACE, stored([*trials, one]), stored([one])[0], "accuracy") is hopeless


def test_nothing_is_pruned_before_enough_trials_finished():
    trials = [trial(number, values_of(number), 0.5, 0.9) for number in range(1, 5)]
    trials.append(trial(5, values_of(5), 0.0, 0.0, status=RUNNING))
    assert not study.is_hopeless("median", SPACE, trials, trials[-1], "accuracy")


def test_a_loss_is_better_when_it_is_smaller():
    trials = [trial(number, values_of(number), 0.5, 0.5) for number in range(1, 6)]
    for figure, hopeless in ((0.1, True), (0.9, False)):  # The loss is one minus that.
        one = trial(6, values_of(6), figure, figure, status=RUNNING)
        assert study.is_hopeless("median", SPACE, [*trials, one], one, "loss") is hopeless


def test_importances_need_no_torch():
    trials = sweep("random", 30)
    shares = study.importances(SPACE, trials, "accuracy")
    assert next(iter(shares)) == "learning_rate" and shares["learning_rate"] > 0.7
    assert sum(shares.values()) == pytest.approx(1.0) and set(shares) == set(SPACE.domains)
    assert study.importances(SPACE, trials[:9], "accuracy") == {}
    assert study.importances(SPACE, [dataclasses.replace(one, status=PRUNED) for one in trials], "accuracy") == {}
    assert study.importances(SPACE, [trial(one.number, one.values, 0.5) for one in trials], "accuracy") == {}
    assert "torch" not in sys.modules
