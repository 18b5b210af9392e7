"""mirrorline train: trains a model with evaluations, or continues the run in the directory."""
import os
import sys
from collections.abc import Mapping
from typing import Any

from absl.flags import DEFINE_boolean, FlagValues

from flags import given_options
from launch.cluster.adapters import engine_variable, from_environment, is_slurm_shell
from launch.commands.find import LONGEST_STEP, check_options, search_batch
from pipeline import runs
from pipeline.config import MOVING_AVERAGE, ExperimentConfig
from pipeline.console import Console
from pipeline.distributed.cluster import Cluster
from pipeline.distributed.peer_failure import PEER_LOST
from pipeline.distributed.rendezvous import PeerLost
from pipeline.errors import UsageError
from pipeline.quantities import counted, rate
from pipeline.run_directory import RunDirectory

# Imports inside functions: `--help` and wrong usage answer without TensorFlow.

SUMMARY = "train a model; run the same command again to continue where it stopped"
PLACE = 10
GROUPS = ("data", "model", "optimizer", "training", "runtime")
EXIT_PREEMPTED = 75


def define(flag_values: FlagValues) -> None:
    """Defines the flag of this command alone."""
    DEFINE_boolean("auto_batch_size", False, "a new run begins with the batch size that 'mirrorline find --batch_size' "
                   "suggests, and keeps it; --batch_size=auto is short for it", flag_values=flag_values)


def run(config: ExperimentConfig, flag_values: FlagValues) -> int:
    """Runs the command; returns the exit code."""
    workers, line = find_workers(os.environ)
    if workers:  # TensorFlow reads this variable only, whatever the scheduler.
        os.environ["TF_CONFIG"] = workers.tf_config
    cluster = Cluster.of(os.environ)
    console = runs.console_for(config.replace(verbosity="quiet") if cluster and cluster.rank else config)
    if line:
        console.info(line)
    if flag_values.auto_batch_size:
        config = with_batch_size(config, given_options(flag_values), cluster is None, console)
    try:
        trained = runs.train(config, console)
    except PeerLost as error:
        print(f"mirrorline train: {error}", file=sys.stderr, flush=True)
        sys.stdout.flush()
        os._exit(PEER_LOST)  # At the exit of a process TensorFlow waits for the other workers.
    return _report_result(trained, console) if trained.ended else _report_finished(trained, config, console)


def with_batch_size(config: ExperimentConfig, given: Mapping[str, Any], alone: bool, console: Console
                    ) -> ExperimentConfig:
    """Returns the configuration for --batch_size=auto: with the batch size of the run, or for a new run the fastest.

    The learning rate follows from that batch size, unless it was given without one.

    Args:
      config: with the batch size that the learning rate is for.
      given: {option name: value} given by the user.
      alone: whether this is no run of several workers.
      console: for messages.

    Raises:
      UsageError: options or a directory that training would refuse too, or a new run of several workers.
    """
    from pipeline.finding.batch_size import scaled_rate
    resolved = runs.resolve(config)
    directory = RunDirectory(resolved.runtime.workdir or "")
    stored = directory.config
    if stored:
        batch_size, why = int(stored["config"]["batch_size"]), "as the run began"
    else:
        check_options(config)
        directory.check(resolved)  # Before minutes are spent.
        if not alone:
            raise UsageError("--batch_size=auto tries batches in one process, not with several workers: run "
                             "'mirrorline find --batch_size' with the replicas of one worker, and give --batch_size "
                             "its number times the workers")
        _, found = search_batch(resolved, 0, LONGEST_STEP, console)
        batch_size, why = found.fastest.batch_size, f"the fastest; the largest is {found.largest.batch_size}"
    if "learning_rate" in given and "batch_size" not in given:
        values, rule = {}, "as given"
    else:
        scaled, rule = scaled_rate(config, batch_size)
        values = {} if config.optimizer.base_learning_rate is not None else {"learning_rate": scaled}
    chosen = config.replace(batch_size=batch_size, **values)
    console.info(f"batch   {batch_size}, {why}; learning rate {chosen.optimizer.learning_rate:g}, {rule}")
    return chosen


def find_workers(environment: Mapping[str, str]) -> tuple[Cluster | None, str | None]:
    """Finds the workers of the run in the variables of a scheduler.

    Args:
      environment: such as os.environ.

    Returns:
      (the workers, or None to train alone; a line for the user about them, or None).

    Raises:
      UsageError: variables that cannot be read, or a task of Slurm without a terminal.
    """
    workers, name = from_environment(environment), engine_variable(environment)
    if not workers:
        return None, None
    count = len(workers.addresses)
    if name == "SLURM_STEP_NODELIST" and is_slurm_shell(environment):
        if workers.rank:
            raise UsageError(f"this is task {workers.rank} of {count} of a step of Slurm with a terminal (srun --pty), "
                             "which only task 0 has: start several workers with srun without --pty")
        return None, (f"alone   this shell is task 0 of {count} of a step of Slurm (srun --pty), and the others have "
                      f"none: trains alone; for {count} workers leave out --pty")
    if workers.rank or "MIRRORLINE_ATTEMPT" in environment:  # `mirrorline launch` has reported it.
        return workers, None
    return workers, (f"workers {count}, set by {name}: this is the first and waits for the others; to train alone: "
                     f"env -u {name} mirrorline train ...")


def _report_finished(trained, config, console):
    """Reports that nothing is left to do, and how to train longer; returns the exit code."""
    longer = "--epochs" if config.optimizer.schedule == "constant" else (
        "--epochs and --allow=epochs, since the learning rate follows a schedule over the whole length")
    more = f"train longer with more {longer}" if trained.status == "finished" else (
        "it stopped early; continue with more --early_stopping_patience and --allow=early_stopping_patience")
    accuracy, _, weights, selection = _final_figures(trained.result)
    console.info(f"{trained.workdir} is finished: step {trained.result['step']}, {accuracy}{weights}{selection}; "
                 f"{more}, or start another run with another --workdir")
    return 0


def _final_figures(result: Mapping[str, Any]) -> tuple[str, str, str, str]:
    """Returns the final metrics in result.json as text.

    Returns:
      ("test accuracy 99.72%", loss, a clause for the moving average of the weights, a clause for a split that has also
      selected the best checkpoint); the clauses may be "".
    """
    split = "test" if result.get("test_accuracy") is not None or "validation_accuracy" not in result else "validation"
    accuracy, loss = result.get(f"{split}_accuracy"), result.get(f"{split}_loss")
    selection = "" if result.get("selected_on") != split else (
        f" (the {split} split also selects the best checkpoint, so a metric chosen by it is slightly optimistic)")
    return (f"{split} accuracy {'unknown' if accuracy is None else f'{accuracy:.2%}'}",
            "unknown" if loss is None else f"{loss:.4f}",
            f" ({MOVING_AVERAGE})" if result.get("evaluated_weights") == MOVING_AVERAGE else "", selection)


def _report_result(trained, console):
    """Reports the end of a training and where its results are; returns the exit code."""
    from pipeline.monitoring.recorder import tensorboard_command
    ended, result = trained.ended, trained.result
    if trained.status == "preempted":
        saved = "saved" if ended.saved_step == ended.step else (
            f"not saved, since the training loss is diverging: it continues from step {ended.saved_step or 0}")
        print(f"stopped at step {ended.step} of {trained.total_steps} and {saved}; run the same command again to "
              "continue", file=sys.stderr)
        return EXIT_PREEMPTED
    speed = f", {rate(result['examples_per_second'])}" if result["examples_per_second"] else ""
    accuracy, loss, weights, selection = _final_figures(result)
    console.info(f"{trained.status.replace('_', ' ')}: {accuracy}, loss {loss}{weights} after "
                 f"{counted(ended.step, 'step')}{speed}{selection}")
    skipped = result.get("unreadable_files", {})
    if any(skipped.values()):
        console.info(f"skipped {counted(sum(skipped.values()), 'unreadable file')}: {skipped['left_out']} left out, "
                     f"{skipped['replaced']} replaced by another of the class")
    console.info(f"look    {tensorboard_command(RunDirectory(trained.workdir))}")
    console.info(f"        {os.path.join(trained.workdir, 'result.json')}")
    return 0
