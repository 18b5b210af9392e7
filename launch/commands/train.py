"""mirrorline train: trains a model, evaluating along the way, and continues what is in the run's directory."""
import os
import sys

from launch.cluster.adapters import engine_variable, from_environment, is_slurm_shell
from pipeline import runs
from pipeline.config import MOVING_AVERAGE, ExperimentConfig
from pipeline.distributed.cluster import Cluster
from pipeline.distributed.peer_failure import PEER_LOST
from pipeline.distributed.rendezvous import PeerLost
from pipeline.errors import UsageError
from pipeline.quantities import counted, rate

SUMMARY = "train a model; run the same command again to continue where it stopped"
PLACE = 10
GROUPS = ("data", "model", "optimizer", "training", "runtime")
EXIT_PREEMPTED = 75


def define(flag_values):
    """train has no flags beyond the configuration's."""


def run(config: ExperimentConfig, flag_values):
    """Runs the command; returns the exit code."""
    told, line = find_workers(os.environ)
    if told:  # TensorFlow reads this one alone, whichever engine it was.
        os.environ["TF_CONFIG"] = told.tf_config
    cluster = Cluster.of(os.environ)
    console = runs.console_for(config.replace(verbosity="quiet") if cluster and cluster.rank else config)
    if line:
        console.info(line)
    try:
        trained = runs.train(config, console)
    except PeerLost as error:
        print(f"mirrorline train: {error}", file=sys.stderr, flush=True)
        sys.stdout.flush()
        os._exit(PEER_LOST)  # What TensorFlow does at the end of a process waits for the other workers.
    return report_result(trained, console) if trained.ended else report_finished(trained, config, console)


def find_workers(environment):
    """Returns the workers that an environment tells of, and a line for the user about where that was found.

    Args:
      environment: {name: value}.

    Returns:
      (Cluster, or None to train alone; a line, or None).

    Raises:
      UsageError: variables that cannot be read, or a task of Slurm that nobody sees.
    """
    told, name = from_environment(environment), engine_variable(environment)
    if not told:
        return None, None
    count = len(told.addresses)
    if name == "SLURM_STEP_NODELIST" and is_slurm_shell(environment):
        if told.rank:
            raise UsageError(f"this is task {told.rank} of {count} of a step of Slurm with a terminal (srun --pty), "
                             "which only task 0 has: start several workers with srun without --pty")
        return None, (f"alone   this shell is task 0 of {count} of a step of Slurm (srun --pty), and the others have "
                      f"none: trains alone; for {count} workers leave out --pty")
    if told.rank or "MIRRORLINE_ATTEMPT" in environment:  # By `mirrorline launch`, who has said so.
        return told, None
    return told, (f"workers {count}, as {name} says, and this is the first: waits for the others; alone: env -u {name} "
                  "mirrorline train ...")


def report_finished(trained, config, console):
    """Says that nothing is left to do, and what would be more; returns the exit code."""
    longer = "--epochs" if config.optimizer.schedule == "constant" else (
        "--epochs and --allow=epochs, since the learning rate follows a schedule over the whole length")
    more = f"train longer with more {longer}" if trained.status == "finished" else (
        "it stopped early; go on with more --early_stopping_patience and --allow=early_stopping_patience")
    split, accuracy, _ = final_figures(trained.result)
    console.info(f"{trained.workdir} is finished: step {trained.result['step']}, {split} accuracy {accuracy}"
                 f"{average(trained.result)}{selection(trained.result, split)}; {more}, or start another run with "
                 "another --workdir")
    return 0


def final_figures(result):
    """Returns (name of the split, accuracy, loss) of what result.json holds of a run's end, as text."""
    split = "test" if result.get("test_accuracy") is not None or "validation_accuracy" not in result else "validation"
    accuracy, loss = result.get(f"{split}_accuracy"), result.get(f"{split}_loss")
    return split, "unknown" if accuracy is None else f"{accuracy:.2%}", "unknown" if loss is None else f"{loss:.4f}"


def average(result):
    """Returns the clause for figures of the moving average of the weights, "" for those of the weights as trained."""
    return f" ({MOVING_AVERAGE})" if result.get("evaluated_weights") == MOVING_AVERAGE else ""


def selection(result, split):
    """Returns the clause for figures of a split that has selected the checkpoint itself, "" where it has not."""
    if result.get("selected_on") != split:
        return ""
    return f" (the {split} split also selects the best checkpoint, so a figure chosen by it is a little too good)"


def report_result(trained, console):
    """Says how a training ended and where to look; returns the exit code."""
    from pipeline.monitoring.recorder import tensorboard_command
    from pipeline.run_directory import RunDirectory
    ended, result = trained.ended, trained.result
    if trained.status == "preempted":
        saved = "saved" if ended.saved_step == ended.step else (
            f"not saved, since the training loss is diverging: it goes on from step {ended.saved_step or 0}")
        print(f"stopped at step {ended.step} of {trained.total_steps} and {saved}; run the same command again to "
              "continue", file=sys.stderr)
        return EXIT_PREEMPTED
    speed = f", {rate(result['examples_per_second'])}" if result["examples_per_second"] else ""
    split, accuracy, loss = final_figures(result)
    console.info(f"{trained.status.replace('_', ' ')}: {split} accuracy {accuracy}, loss {loss}{average(result)} after "
                 f"{counted(ended.step, 'step')}{speed}{selection(result, split)}")
    console.info(f"look    {tensorboard_command(RunDirectory(trained.workdir))}")
    console.info(f"        {os.path.join(trained.workdir, 'result.json')}")
    return 0
