"""Optuna's samplers, pruners and importances as functions of the trials so far.

No state is kept between calls: each makes a study of the trials, and every random number is drawn from (seed, number of
the trial). So a resumed sweep proposes and prunes what an uninterrupted one does.
"""
import hashlib
import itertools
from collections.abc import Mapping, Sequence
from typing import Any

import optuna
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.trial import TrialState, create_trial

from pipeline.sweep.records import FAILED, FINISHED, PRUNED, Trial
from pipeline.sweep.space import Points, Range, Space, value_text

optuna.logging.set_verbosity(optuna.logging.ERROR)

ATTEMPTS = 50  # To draw values that were not tried before.
FEWEST_FINISHED = 5  # Trials for a median.
FIRST_PRUNED = 2  # Evaluation: at the first one a small learning rate looks worse than it is.
HALVING_FACTOR = 3  # One in three continues: the few evaluations of a run leave room for two or three decisions.
FEWEST_FOR_IMPORTANCE = 10


def seed_of(seed: int, number: int, attempt: int = 0) -> int:
    """Returns the seed, in [0, 2**32), of a trial and an attempt."""
    return int.from_bytes(hashlib.sha256(f"{seed} {number} {attempt}".encode()).digest()[:4], "little")


def propose(space: Space, trials: Sequence[Trial], search: str, seed: int, metric: str) -> dict[str, Any]:
    """Returns the values of the next trial, {option name: value}, not tried before where that is possible.

    Args:
      space: what is varied.
      trials: all so far.
      search: "random", "grid" or "bayesian": the tree-structured Parzen estimator after ten random trials (Bergstra et
        al., NeurIPS 2011).
      seed: of the sweep.
      metric: "accuracy" or "loss".
    """
    number = len(trials) + 1
    if search == "grid":
        return next(itertools.islice(space.grid(), number - 1, None))
    tried = [trial.values for trial in trials]
    for attempt in range(ATTEMPTS):
        drawn = seed_of(seed, number, attempt)
        if search == "random":
            study = _study([], space, metric, sampler=optuna.samplers.RandomSampler(seed=drawn))
        else:
            study = _study(trials, space, metric, sampler=optuna.samplers.TPESampler(seed=drawn))
        values = _values(space, study.ask(fixed_distributions=_distributions(space)).params)
        if plain(values) not in map(plain, tried):
            return values
    if space.size and len(trials) < space.size:  # Chance does not find the last of a small space.
        return next(values for values in space.grid() if plain(values) not in map(plain, tried))
    return values


def is_hopeless(pruner: str, space: Space, trials: Sequence[Trial], trial: Trial, metric: str) -> bool:
    """Returns whether a trial is to be pruned after its latest evaluation.

    Args:
      pruner: "median": worse than the median of five or more finished trials at the same evaluation; "halving": not
        among the best third of those that came as far, at evaluations 1, 3, 9, ... (asynchronous successive halving,
        Li et al., MLSys 2020); or "none".
      space, trials, metric: see `propose`.
      trial: one of `trials`; its `rungs` are updated.
    """
    if pruner == "none" or not trial.evaluations:
        return False
    study = _study(trials, space, metric, pruner=optuna.pruners.MedianPruner(
        n_startup_trials=FEWEST_FINISHED, n_warmup_steps=FIRST_PRUNED) if pruner == "median" else
        optuna.pruners.SuccessiveHalvingPruner(min_resource=1, reduction_factor=HALVING_FACTOR))
    index = trials.index(trial)
    hopeless = study.pruner.prune(study, study.get_trials(deepcopy=False)[index])
    trial.rungs = dict(study.get_trials(deepcopy=False)[index].system_attrs)
    return bool(hopeless)


def importances(space: Space, trials: Sequence[Trial], metric: str) -> dict[str, float]:
    """Returns {option name: its share of the variance of the metric over finished trials}, largest first.

    By functional ANOVA (Hutter et al., ICML 2014); {} where there are too few trials or nothing varies.
    """
    finished = [trial for trial in trials if trial.status == FINISHED]
    if len(finished) < FEWEST_FOR_IMPORTANCE or len(space.domains) < 2:
        return {}
    if len({trial.last[metric] for trial in finished}) < 2:
        return {}
    study = _study(finished, space, metric)
    found = optuna.importance.get_param_importances(
        study, evaluator=optuna.importance.FanovaImportanceEvaluator(seed=0))
    return {name: float(share) for name, share in found.items()}


def plain(values: Mapping[str, Any]) -> dict[str, str]:
    """Returns {option name: value} as text, so that values read from JSON compare equal."""
    return {name: value_text(value) for name, value in values.items()}


def _study(trials, space, metric, sampler=None, pruner=None):
    study = optuna.create_study(sampler=sampler or optuna.samplers.RandomSampler(seed=0), pruner=pruner,
                                direction="maximize" if metric == "accuracy" else "minimize")
    study.add_trials([_frozen(trial, space, metric) for trial in trials])
    return study


def _frozen(trial, space, metric):
    """Returns a Trial as one of Optuna's.

    A failed one counts as pruned before its first evaluation: Optuna ignores failed trials, and would try the same
    corner of the space again.
    """
    state = {FINISHED: TrialState.COMPLETE, PRUNED: TrialState.PRUNED, FAILED: TrialState.PRUNED}.get(
        trial.status, TrialState.RUNNING)
    seen = [] if trial.status == FAILED else trial.evaluations
    figures = [float("nan") if e[metric] is None else e[metric] for e in seen]
    return create_trial(
        state=state, value=figures[-1] if state == TrialState.COMPLETE else None, distributions=_distributions(space),
        params={name: _internal(domain, trial.values[name]) for name, domain in space.domains.items()},
        intermediate_values=dict(enumerate(figures, 1)), system_attrs=dict(trial.rungs))


def _distributions(space):
    return {name: _distribution(domain) for name, domain in space.domains.items()}


def _distribution(domain):
    if isinstance(domain, Range):
        return (IntDistribution if domain.whole else FloatDistribution)(domain.low, domain.high,
                                                                        log=domain.logarithmic)
    if isinstance(domain, Points):
        return IntDistribution(0, domain.size - 1)
    return CategoricalDistribution([value_text(value) for value in domain.values])


def _internal(domain, value):
    if isinstance(domain, Points):
        return domain.values.index(value)
    return value if isinstance(domain, Range) else value_text(value)


def _values(space, params):
    """Returns {option name: value} of Optuna's parameters."""
    values = {}
    for name, domain in space.domains.items():
        if isinstance(domain, Range):
            values[name] = domain.rounded(params[name])
        elif isinstance(domain, Points):
            values[name] = domain.values[params[name]]
        else:
            values[name] = next(value for value in domain.values if value_text(value) == params[name])
    return values
