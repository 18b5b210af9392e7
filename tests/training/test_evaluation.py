"""An evaluation sums exactly over examples, for any batch size, replicas and parts."""
import dataclasses

import pytest

from pipeline.errors import UsageError
from pipeline.training import cadence
from tests.training.small import build


def test_an_empty_split_is_refused(strategy):
    experiment = build(strategy(2))
    with pytest.raises(UsageError, match="the test split of digits has no examples"):
        experiment.evaluate(dataclasses.replace(experiment.source.test, num_examples=0))


def test_the_parts_of_an_evaluation_do_not_change_it(strategy, monkeypatch):
    experiment = build(strategy(2), batch_size=2)  # In float64: sums of float32 losses would be exact anyway.
    figures = []
    for sizes in ((180,), (1,), (7,), (50, 3, 1, 20)):
        given = iter(sizes * 180)
        monkeypatch.setattr(cadence.StepsPerLoopController, "next",
                            lambda self, limit, given=given: min(next(given), limit))
        figures.append(experiment.evaluate(experiment.source.test).figures)
    assert figures[0]["examples"] == 360 and figures[1:] == figures[:1] * 3


def test_batch_size_and_replicas_do_not_change_the_metrics(strategy):
    found = []
    for replicas, size in ((1, 360), (2, 7)):
        experiment = build(strategy(replicas), batch_size=size)
        found.append(experiment.evaluate(experiment.source.test).figures)
    for figures in found:
        assert (figures["examples"], figures["accuracy"]) == (360, found[0]["accuracy"])
        assert figures["loss"] == pytest.approx(found[0]["loss"], rel=1e-13)


def test_a_stopped_evaluation_has_no_metrics(strategy):
    experiment = build(strategy(1))
    answers = iter([False, False, True])
    assert experiment.evaluate(experiment.source.test, should_stop=lambda: next(answers)) is None
