"""A sweep from its plan to best.flags: checks before anything starts, the trials, the report at the end."""
import dataclasses
import json
import os
import shlex
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from pipeline import run_directory
from pipeline.config import ExperimentConfig, RuntimeConfig
from pipeline.data.splits import DATA_SET
from pipeline.errors import RunFailure, UsageError
from pipeline.files import read_json
from pipeline.processes import end_with, last_line
from pipeline.quantities import counted
from pipeline.sweep import best_flags
from pipeline.sweep.records import OPEN, SweepDirectory, best
from pipeline.sweep.space import Space, value_text

# Imports inside functions: `--help` and wrong usage answer without TensorFlow.

TRIALS = 20
HELD_OUT = 0.1  # Share of the training split that selects where the data have no validation split.
UNSAID = ("verbosity", "allow")  # Options that a trial does not get.


@dataclasses.dataclass(frozen=True)
class SweepPlan:
    """What a sweep runs.

    Attributes:
      directory: claimed.
      space: what is varied.
      wanted: total number of trials.
      places: options of each trial that runs at the same time as others, such as its GPU.
      fixed: options that are the same in all trials.
      given: these, and those that the data set brings.
      resolve: returns the configuration of a trial's values.
      verbosity: "quiet" shows nothing.
    """

    directory: SweepDirectory
    space: Space
    wanted: int
    places: Sequence[Mapping[str, Any]]
    fixed: Mapping[str, Any]
    given: Mapping[str, Any]
    resolve: Callable[[dict[str, Any]], ExperimentConfig]
    verbosity: str = "normal"


def fixed_options(given: Mapping[str, Any], space: Space) -> dict[str, Any]:
    """Returns {option name: value} of what is the same in all trials.

    Raises:
      UsageError: an option that is varied too, a workdir, or nothing to select trials by.
    """
    for name, value in given.items():
        if name in space.domains:
            raise UsageError(f"--{name}={value_text(value)} is given, and --space varies it: give one of them")
    if "subset" in given and "batch_size" in space.domains:
        raise UsageError(f"--subset={given['subset']} counts batches: with a batch_size that varies, trials would not "
                         "have the same examples; give one of them")
    if "workdir" in given:
        raise UsageError("--workdir is that of one run: give the folder of all trials with --output")
    if "fold" in given:
        raise UsageError(f"--fold={given['fold']}: trials are compared on one part of training, --validation_split; "
                         "train the best of them with --fold")
    held_out = given.get("validation_split", HELD_OUT)
    if not held_out:
        raise UsageError("--validation_split=0: trials are compared on a validation split, never on the test "
                         f"split; give a share such as {HELD_OUT:g}")
    return {**{name: value for name, value in given.items() if name not in UNSAID}, "validation_split": held_out}


def count_trials(space: Space, search: str, asked: int | None) -> int:
    """Returns the number of trials: at most as many as a finite space has combinations, all of them in a grid."""
    if search == "grid":
        space.check_grid()
    size = space.size or sys.maxsize
    return min(asked or (size if search == "grid" else TRIALS), size)


def choose_places(runtime_config: RuntimeConfig, parallel: int) -> list[dict[str, Any]]:
    """Returns the options of each of `parallel` places for a trial: one GPU each where there are several.

    Raises:
      UsageError: more trials at once than GPUs, or several GPUs for each of them.
    """
    from pipeline.distributed import cuda, devices  # The driver's library.
    gpus = cuda.count_gpus()
    kind, indices = devices.choose_devices(gpus, runtime_config.devices, 0 if gpus else runtime_config.replicas)
    if parallel == 1 or kind == "CPU":
        return [{}] * parallel
    if runtime_config.replicas > 1:
        raise UsageError(f"--parallel={parallel} gives each trial one GPU; found --replicas={runtime_config.replicas}: "
                         "give one of them")
    if parallel > len(indices):
        raise UsageError(f"--parallel={parallel} on {counted(len(indices), 'GPU')}: each trial takes "
                         f"one; give at most {len(indices)}")
    return [{"devices": (str(index),)} for index in indices[:parallel]]


def default_output(config: ExperimentConfig, space: Space) -> str:
    """Returns runs/sweep-<dataset>-<model>, without the model where that is varied."""
    folder, name = os.path.split(run_directory.default_path(config))
    if "model" in space.domains:
        name = name.removesuffix(f"-{config.model.model}")
    return os.path.join(folder, f"sweep-{name}")


def check_models(space: Space, resolve: Callable[[dict[str, Any]], ExperimentConfig]) -> None:
    """Raises UsageError for models or options of models that do not exist; see pipeline.sweep.model_check."""
    varied = [name for name in ("model", "model_options") if name in space.domains]
    if not varied:
        return
    configs = [resolve(values) for values in Space({name: space.domains[name] for name in varied}).grid()]
    models = [[config.model.model, config.model.model_options] for config in configs]
    with tempfile.NamedTemporaryFile("w", suffix=".json", encoding="utf-8") as file:
        json.dump({"models": models, "extension": configs[0].data.extension}, file)
        file.flush()
        done = subprocess.run([sys.executable, "-m", "pipeline.sweep.model_check", file.name], capture_output=True,
                              encoding="utf-8", errors="replace", preexec_fn=end_with(os.getpid()))
    if done.returncode:
        raise (UsageError if done.returncode == 2 else RunFailure)(f"--space: {last_line(done.stderr)}")


def run(plan: SweepPlan) -> dict[str, Any]:
    """Runs the trials and reports the result.

    Returns:
      {"complete": False where it was stopped, "best": of the best trial, or None, "importances": {option: share}}.
    """
    # Optuna and rich: a second that wrong use does not wait for.
    from pipeline.sweep.leaderboard import create_leaderboard
    from pipeline.sweep.search import Search, unfinished
    from pipeline.training.preemption import StopRequest
    directory, quiet = plan.directory, plan.verbosity == "quiet"
    wanted = max(plan.wanted, len(directory.trials))
    if not quiet:
        _introduce(directory, plan.space, wanted)

    def command(trial, place):
        options = {**plan.fixed, **trial.values, **plan.places[place], "workdir": directory.file(trial.name)}
        return ["launch", "train", *(best_flags.flag(name, value) for name, value in options.items())]

    display = create_leaderboard(directory.settings["metric"], wanted, plan.verbosity)
    with StopRequest() as stop:
        search = Search(directory, plan.space, plan.wanted, command, len(plan.places), display, stop)
        try:
            if unfinished(directory.trials, plan.wanted):
                search.run()
        finally:
            display.close()
    result = _conclude(plan, complete=not search.stopped)
    if not quiet and directory.trials:
        _show(directory, result)
    return result


def _introduce(directory, space, wanted):
    """Prints what is varied, how trials are compared, and how many are done already."""
    from pipeline.sweep.tables import print_paragraph
    settings, done = directory.settings, sum(trial.status not in OPEN for trial in directory.trials)
    grid = space.size and settings["search"] == "grid"
    number = f"{wanted} of the {counted(space.size, 'combination')}" if grid else counted(wanted, "trial")
    print_paragraph("sweep", f"{directory.path}: {number}, {settings['search']} search"
                    + (f", {done} done before" if done else ""))
    width = max(map(len, space.domains))
    for name, domain in space.domains.items():
        print(f"        {name:{width}}  {domain.text}")
    print_paragraph("", f"compared by the {settings['metric']} at the end of a trial on the validation split of the "
                    f"data or, where there is none, {settings['flags']['validation_split']:.3g} of the training "
                    "examples, held out (--validation_split); the test split selects nothing")


def _conclude(plan, complete):
    """Writes sweep.json, leaderboard.csv and best.flags; returns what `run` does."""
    from pipeline.sweep.study import importances
    directory, settings, trials = plan.directory, plan.directory.settings, plan.directory.trials
    first = best(trials, settings["metric"])
    result = {"complete": complete, "importances": importances(plan.space, trials, settings["metric"]), "best": None}
    if first:
        stored = read_json(directory.file(first.name, "result.json")) or {}
        # Without a test split of its own, a data set calls "test" the examples that have selected.
        independent = stored.get("selected_on") == "validation"
        result["best"] = {"trial": first.number, "values": first.values, **first.last, "examples": first.examples,
                          "test_accuracy": stored.get("test_accuracy") if independent else None}
        config = read_json(directory.file(first.name, "config.json")) or {"data": {}}
        best_flags.write(directory.file("best.flags"), plan.resolve(first.values), {**plan.given, **first.values},
                         first, settings, len(trials), result["best"]["test_accuracy"],
                         config["data"].get("validation_from") != DATA_SET)
    else:
        directory.remove("best.flags")
    directory.save(**result)
    directory.write_leaderboard()
    return result


def _show(directory, result):
    """Prints the leaderboard, the best trial, what mattered, and where to look."""
    from pipeline.sweep.tables import figure, print_final, print_paragraph
    metric, chosen = directory.settings["metric"], result["best"]
    print_final(directory.trials, metric)
    if chosen:
        test = "this data set has no test split for an unbiased estimate" if chosen["test_accuracy"] is None else (
            f"its test accuracy, which selected nothing, is {chosen['test_accuracy']:.2%}")
        finished = sum(trial.status == "finished" for trial in directory.trials)
        chance = f", the best of {finished} and so a little optimistic" if finished > 1 else ""
        print_paragraph("best", f"trial {chosen['trial']}: validation {metric} {figure(metric, chosen[metric])} of "
                        f"{counted(chosen['examples'], 'example')}{chance}; {test}")
    if result["importances"]:
        shares = ", ".join(f"{name} {share:.0%}" for name, share in result["importances"].items())
        print_paragraph("matters", f"{shares} (share of the variance of {metric} over the finished trials)")
    look = shlex.join(["mirrorline", "tensorboard", f"--logdir={directory.path}"])
    print(f"look    {look}\n        {directory.file('leaderboard.csv')}")
    if chosen:
        print(f"train   {shlex.join(['mirrorline', 'train', '--flagfile=' + directory.file('best.flags')])}")
