"""The state that a run goes on from: its newest good checkpoint, and the record of its start."""
import os

from pipeline import arithmetic
from pipeline.errors import RunFailure
from pipeline.monitoring.goodput import lost_tail, process_age
from pipeline.run_directory import LENGTH
from pipeline.training.run_records import describe

INCOMPARABLE = {"best_metric", "validation_split"}  # Settings with which the best so far means nothing any more.


def restore_checkpoint(experiment, store, known: int | None) -> int:
    """Restores the newest good checkpoint; returns its step, 0 for a fresh start.

    Args:
      experiment: Experiment, its state fresh.
      store: CheckpointStore.
      known: a step of which there was a checkpoint once, or None.

    Raises:
      RunFailure: there is no good checkpoint any more, or its position in the stream is not that of its step.
    """
    state, batch_size = experiment.state, experiment.plan.batch_size
    step = store.restore(known)
    state.fit_precision(experiment.settings.scale_loss)
    position = int(state.position.numpy())
    if position != step * batch_size:
        raise RunFailure(f"the checkpoint of step {step} stands at example {position} of the stream, not at "
                         f"{step * batch_size}: it was made with another --batch_size")
    best = int(state.best_step.numpy())
    if best > 0 and not store.has_best(best):
        store.keep_best(best)  # Killed between saving this checkpoint and keeping it.
    return step


def record_start(trainer, step: int) -> None:
    """Reports what a run goes on from, and puts the start on record before config.json forgets how it was.

    Args:
      trainer: pipeline.training.trainer.Trainer, its checkpoint restored.
      step: of that checkpoint.
    """
    experiment, launches, console = trainer.experiment, trainer.launches, trainer.console
    # A process that was killed before it saved leaves a checkpoint that does not know what it was allowed.
    changed = {name for name, *_ in trainer.accepted} | launches.allowed(step)
    if experiment.workers.first(bool(INCOMPARABLE & changed)):
        experiment.state.forget_best()
    if step:
        console.info(f"resume  from the checkpoint of step {step}")
    taken = experiment.initialization if trainer.store.last_step is None else None
    for line in taken.lines() if taken else ():
        console.info(line)
    for name, old, new in trainer.accepted:
        rate = f"; the learning rate of step {step + 1} is {experiment.learning_rate(step):.4g}"
        console.info(f"--allow: {name} was {old}, is {new} from here on{rate if name in LENGTH else ''}")
    reached, seconds = lost_tail(launches.path, trainer.directory.file("metrics.jsonl"))
    if seconds:
        launches.record("lost", step, to_step=reached, seconds=round(seconds, 4))
    launches.record("start", step, process=os.getpid(), replicas=experiment.strategy.num_replicas_in_sync,
                    allowed=trainer.accepted, age=round(process_age(), 4),
                    **({"initialized_from": taken.file, "sha256": taken.sha256} if taken else {}))
    described = describe(experiment)
    before = (trainer.directory.config or {}).get("device") or {}
    for line in arithmetic.changes(before, described["device"]) if step else ():
        trainer.console.warning(f"note    {line}")
    trainer.directory.write_config(described)
    trainer.directory.forget_result()
