"""mirrorline sweep: searches for better settings; each trial is a training, compared on held-out examples."""
import json
import sys

from absl import flags as absl_flags

import flags
from flags.defaults import with_dataset_defaults
from flags.parsing import OTHER_NAMES
from pipeline import extension, run_directory
from pipeline.augmentation import check_strengths
from pipeline.config import ExperimentConfig
from pipeline.errors import RunFailure
from pipeline.quantities import counted
from pipeline.sweep import run as sweep
from pipeline.sweep import space as spaces
from pipeline.sweep.records import OPEN, SweepDirectory

SUMMARY = "search for better settings: random, grid or Bayesian, pruned, resumable"
PLACE = 60
GROUPS = ("data", "model", "optimizer", "training", "runtime")
EXIT_INTERRUPTED = 75
SEARCHES, PRUNERS = ("random", "grid", "bayesian"), ("median", "halving", "none")


def define(flag_values: absl_flags.FlagValues) -> None:
    """Defines the flags of this command alone."""
    absl_flags.DEFINE_string("space", None, "what to vary, name=values,name=values; values are a set (32|64|128), a "
                             "range (0..0.2), a range on a logarithmic scale (log:1e-4..1e-1), whole numbers "
                             "(int:2..6), or N points of a range (0..0.2:5)", flag_values=flag_values)
    absl_flags.DEFINE_integer("trials", None, f"number of trials; default {sweep.TRIALS}, of a grid all; may be "
                              "increased later", lower_bound=1, flag_values=flag_values)
    absl_flags.DEFINE_enum("search", "bayesian", SEARCHES, "how values are chosen: at random, every combination, or "
                           "where earlier trials were good (Optuna's TPE)", flag_values=flag_values)
    absl_flags.DEFINE_enum("prune", "median", PRUNERS, "which trials end early: worse than the median of five or more "
                           "at the same evaluation, not among the best third of those that came as far, or none",
                           flag_values=flag_values)
    absl_flags.DEFINE_integer("parallel", 1, "trials at once; with GPUs one each", lower_bound=1,
                              flag_values=flag_values)
    flags.define_path("output", None, "folder of the trials, sweep.json, leaderboard.csv and best.flags; the same "
                      "command resumes there; default runs/sweep-<dataset>-<model>", flag_values)


def run(config: ExperimentConfig, flag_values: absl_flags.FlagValues) -> int:
    """Runs the command; returns the exit code.

    Raises:
      UsageError: invalid values, before anything starts or is written; or trials that all fail by them.
      RunFailure: no trial finished.
    """
    space = spaces.parse_space(flag_values.space, OTHER_NAMES)
    fixed = sweep.fixed_options(flags.given_options(flag_values), space)

    def resolve(values):
        chosen = ExperimentConfig.from_flat(with_dataset_defaults({**fixed, **values}))
        check_strengths(chosen.data.augment)
        return chosen

    base = resolve({})
    space.check(resolve)
    wanted = sweep.count_trials(space, flag_values.search, flag_values.trials)
    places = sweep.choose_places(config.runtime, flag_values.parallel)
    output = flag_values.output or sweep.default_output(config, space)
    run_directory.check_outside_data("--output", output, base.data.dataset)
    directory = SweepDirectory(output, {
        "space": space.text, "search": flag_values.search, "prune": flag_values.prune,
        "metric": base.training.best_metric, "flags": json.loads(json.dumps(base.flat())),
        "extensions": extension.digests(base.data.extension)})
    if not directory.trials:
        sweep.check_models(space, resolve)
    directory.claim()
    try:
        result = sweep.run(sweep.SweepPlan(directory, space, wanted, places, fixed, with_dataset_defaults(fixed),
                                           resolve, config.runtime.verbosity))
    finally:
        directory.close()
    trials = directory.trials
    if not result["complete"]:
        done = sum(trial.status not in OPEN for trial in trials)
        print(f"stopped with {done} of {counted(wanted, 'trial')} done; run the same command again to continue",
              file=sys.stderr)
        return EXIT_INTERRUPTED
    if not result["best"]:
        raise RunFailure(f"none of {counted(len(trials), 'trial')} finished; the last one: {trials[-1].message}")
    return 0
