"""mirrorline sweep: searches for better settings, each trial a training of its own, judged on a part held out."""
import json
import os
import shlex
import subprocess
import sys
import tempfile

from absl import flags as absl_flags

import flags
from flags.defaults import with_dataset_defaults
from flags.parsing import OTHER_NAMES
from pipeline import extension, run_directory
from pipeline.augmentation import check_strengths
from pipeline.config import ExperimentConfig
from pipeline.data.splits import DATA_SET
from pipeline.errors import RunFailure, UsageError
from pipeline.quantities import counted
from pipeline.sweep import space as spaces

SUMMARY = "search for better settings: random, grid or Bayesian, pruned, resumable"
PLACE = 60
GROUPS = ("data", "model", "optimizer", "training", "runtime")
EXIT_INTERRUPTED = 75
TRIALS = 20
HELD_OUT = 0.1  # Of the training split: what trials are judged on where the data have no validation split.
SEARCHES, PRUNERS = ("random", "grid", "bayesian"), ("median", "halving", "none")


def define(flag_values):
    """Defines the flags of this command alone."""
    absl_flags.DEFINE_string("space", None, "what to vary, name=values,name=values; values are a set (32|64|128), a "
                             "range (0..0.2), a range on a logarithmic scale (log:1e-4..1e-1), whole numbers "
                             "(int:2..6), or N points of a range (0..0.2:5)", flag_values=flag_values)
    absl_flags.DEFINE_integer("trials", None, f"how many trials; default {TRIALS}, of a grid all; more of them may be "
                              "given later", lower_bound=1, flag_values=flag_values)
    absl_flags.DEFINE_enum("search", "bayesian", SEARCHES, "how values are chosen: at random, every combination, or "
                           "where earlier trials were good (Optuna's TPE)", flag_values=flag_values)
    absl_flags.DEFINE_enum("prune", "median", PRUNERS, "which trials end early: worse than the median of five or more "
                           "at the same evaluation, not among the best third of those that came as far, or none",
                           flag_values=flag_values)
    absl_flags.DEFINE_integer("parallel", 1, "trials at once; with GPUs one each", lower_bound=1,
                              flag_values=flag_values)
    flags.define_path("output", None, "folder of the trials, sweep.json, leaderboard.csv and best.flags; the same "
                      "command goes on there where it stopped; default runs/sweep-<dataset>-<model>", flag_values)


def run(config: ExperimentConfig, flag_values):
    """Runs the command; returns the exit code.

    Raises:
      UsageError: values that cannot be, before anything starts or is written; or trials that all end so.
      RunFailure: no trial came to its end.
    """
    space = spaces.parse_space(flag_values.space, OTHER_NAMES)
    fixed = fixed_options(flags.given_options(flag_values), space)

    def resolve(values):
        chosen = ExperimentConfig.from_flat(with_dataset_defaults({**fixed, **values}))
        check_strengths(chosen.data.augment)
        return chosen

    base = resolve({})
    space.check(resolve)
    wanted = count_trials(space, flag_values.search, flag_values.trials)
    places = choose_places(config.runtime, flag_values.parallel)
    from pipeline.sweep.records import SweepDirectory
    output = flag_values.output or default_output(config, space)
    run_directory.check_outside_data("--output", output, base.data.dataset)
    directory = SweepDirectory(output, {
        "space": space.text, "search": flag_values.search, "prune": flag_values.prune,
        "metric": base.training.best_metric, "flags": json.loads(json.dumps(base.flat())),
        "extensions": extension.digests(base.data.extension)})
    if not directory.trials:
        check_models(space, resolve)
    directory.claim()

    def command(trial, place):
        told = {**fixed, **trial.values, **places[place], "workdir": directory.file(trial.name)}
        from pipeline.sweep.best_flags import flag
        return ["launch", "train", *(flag(name, value) for name, value in told.items())]

    try:
        return search(directory, space, wanted, command, len(places), config.runtime.verbosity, resolve,
                      with_dataset_defaults(fixed))
    finally:
        directory.close()


def fixed_options(given, space):
    """Returns {option name: value} of what is the same in all trials.

    Raises:
      UsageError: an option that is varied too, a workdir, or nothing to judge trials on.
    """
    for name, value in given.items():
        if name in space.domains:
            raise UsageError(f"--{name}={spaces.value_text(value)} is given, and --space varies it: give one of them")
    if "subset" in given and "batch_size" in space.domains:
        raise UsageError(f"--subset={given['subset']} counts batches: with a batch_size that varies, trials would not "
                         "have the same examples; give one of them")
    if "workdir" in given:
        raise UsageError("--workdir is that of one run: give the folder of all trials with --output")
    held_out = given.get("validation_split", HELD_OUT)
    if not held_out:
        raise UsageError("--validation_split=0: trials are judged on a validation split, never on the test "
                         f"split; give a share such as {HELD_OUT:g}")
    unsaid = ("verbosity", "allow")
    return {**{name: value for name, value in given.items() if name not in unsaid}, "validation_split": held_out}


def count_trials(space, search, asked):
    """Returns how many trials there will be; a grid, and any space that has an end, has no more than that."""
    if search == "grid":
        space.check_grid()
        return min(asked or space.size, space.size)
    return min(asked or TRIALS, space.size or sys.maxsize)


def choose_places(runtime_config, parallel):
    """Returns [{option: value}], the flags of each place for a trial.

    Raises:
      UsageError: more trials at once than GPUs, or several GPUs for each of them.
    """
    from pipeline.distributed import cuda, devices
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


def default_output(config, space):
    """Returns runs/sweep-<dataset>-<model>, without the model where that is varied."""
    folder, name = os.path.split(run_directory.default_path(config))
    if "model" in space.domains:
        name = name.removesuffix(f"-{config.model.model}")
    return os.path.join(folder, f"sweep-{name}")


def check_models(space, resolve):
    """Raises UsageError for models and options of models that do not exist: in a process, since it takes TensorFlow."""
    varied = [name for name in ("model", "model_options") if name in space.domains]
    if not varied:
        return
    part = spaces.Space({name: space.domains[name] for name in varied})
    configs = [resolve(values) for values in part.grid()]
    models = [[config.model.model, config.model.model_options] for config in configs]
    with tempfile.NamedTemporaryFile("w", suffix=".json", encoding="utf-8") as file:
        json.dump({"models": models, "extension": configs[0].data.extension}, file)
        file.flush()
        done = subprocess.run([sys.executable, "-m", "pipeline.sweep.trial_process", str(os.getpid()), "--check-models",
                               file.name], capture_output=True, encoding="utf-8", errors="replace")
    if done.returncode:
        from pipeline.processes import last_line
        raise (UsageError if done.returncode == 2 else RunFailure)(f"--space: {last_line(done.stderr)}")


def search(directory, space, wanted, command, places, verbosity, resolve, told):
    """Runs the trials and says what came of them; returns the exit code."""
    from pipeline.sweep.leaderboard import create_leaderboard
    from pipeline.sweep.search import Search, unfinished
    from pipeline.training.preemption import StopRequest
    quiet, trials = verbosity == "quiet", directory.trials
    if not quiet:
        introduce(directory, space, max(wanted, len(trials)))
    display = create_leaderboard(directory.settings["metric"], max(wanted, len(trials)), verbosity)
    with StopRequest() as stop:
        driver = Search(directory, space, wanted, command, places, display, stop)
        try:
            if unfinished(trials, wanted):
                driver.run()
        finally:
            display.close()
    found = conclude(directory, space, resolve, told, complete=not driver.stopped)
    if not quiet and trials:
        show(directory, found)
    if driver.stopped:
        done = sum(trial.status not in ("running", "stopped") for trial in trials)
        print(f"stopped with {done} of {counted(wanted, 'trial')} done; run the same command again to go on",
              file=sys.stderr)
        return EXIT_INTERRUPTED
    if not found["best"]:
        raise RunFailure(f"none of {counted(len(trials), 'trial')} came to its end; the last one: {trials[-1].message}")
    return 0


def introduce(directory, space, wanted):
    """Says what is going to be searched, how it is judged, and what is there already."""
    from pipeline.sweep.leaderboard import print_paragraph
    settings, done = directory.settings, sum(t.status not in ("running", "stopped") for t in directory.trials)
    grid = space.size and settings["search"] == "grid"
    number = f"{wanted} of the {counted(space.size, 'combination')}" if grid else counted(wanted, "trial")
    print_paragraph("sweep", f"{directory.path}: {number}, {settings['search']} search"
                    + (f", {done} done before" if done else ""))
    width = max(map(len, space.domains))
    for name, domain in space.domains.items():
        print(f"        {name:{width}}  {domain.text}")
    share = settings["flags"]["validation_split"]
    print_paragraph("", f"judged by the {settings['metric']} at the end of a trial on the validation split of the data "
                    f"or, where there is none, {share:.3g} of the training examples, held out (--validation_split); "
                    "the test split chooses nothing")


def conclude(directory, space, resolve, told, complete):
    """Writes sweep.json, leaderboard.csv and best.flags; returns {"best", "importances", "complete"}."""
    from pipeline.files import read_json
    from pipeline.sweep import best_flags
    from pipeline.sweep.records import best
    from pipeline.sweep.study import importances
    settings, trials = directory.settings, directory.trials
    first = best(trials, settings["metric"])
    found = {"complete": complete, "importances": importances(space, trials, settings["metric"]), "best": None}
    if first:
        result = read_json(directory.file(first.name, "result.json")) or {}
        # Where a data set has no test split, what is held out of training is called so: it has chosen.
        independent = result.get("selected_on") == "validation"
        found["best"] = {"trial": first.number, "values": first.values, **first.last, "examples": first.examples,
                         "test_accuracy": result.get("test_accuracy") if independent else None}
        config = read_json(directory.file(first.name, "config.json")) or {"data": {}}
        best_flags.write(directory.file("best.flags"), resolve(first.values), {**told, **first.values}, first, settings,
                         len(trials), found["best"]["test_accuracy"], config["data"].get("validation_from") != DATA_SET)
    else:
        directory.remove("best.flags")
    directory.save(**found)
    directory.write_leaderboard()
    return found


def show(directory, found):
    """Prints the leaderboard, the best trial, what mattered, and where to look."""
    from pipeline.sweep import leaderboard
    metric, chosen = directory.settings["metric"], found["best"]
    leaderboard.print_final(directory.trials, metric)
    if chosen:
        test = "this data set has no test split to judge it by" if chosen["test_accuracy"] is None else (
            f"its test accuracy, which chose nothing, is {chosen['test_accuracy']:.2%}")
        finished = sum(trial.status == "finished" for trial in directory.trials)
        chance = f", the best of {finished} and so a little optimistic" if finished > 1 else ""
        leaderboard.print_paragraph("best", f"trial {chosen['trial']}: validation {metric} "
                                    f"{leaderboard.figure(metric, chosen[metric])} of "
                                    f"{counted(chosen['examples'], 'example')}{chance}; {test}")
    if found["importances"]:
        shares = ", ".join(f"{name} {share:.0%}" for name, share in found["importances"].items())
        leaderboard.print_paragraph("matters", f"{shares} (share of the variance of {metric} over the trials that came "
                                    "to their end)")
    look = shlex.join(["mirrorline", "tensorboard", f"--logdir={directory.path}"])
    print(f"look    {look}\n        {directory.file('leaderboard.csv')}")
    if chosen:
        print(f"train   {shlex.join(['mirrorline', 'train', '--flagfile=' + directory.file('best.flags')])}")
