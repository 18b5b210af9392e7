"""The state that a run continues from: the latest good checkpoint at its start, an earlier one after a divergence."""
from typing import TYPE_CHECKING

import tensorflow as tf

from pipeline.callbacks import Restored
from pipeline.errors import RunFailure
from pipeline.quantities import counted
from pipeline.training.checkpoint import CheckpointStore
from pipeline.training.divergence import Divergence, where_it_began
from pipeline.training.experiment import Experiment
from pipeline.training.multi_worker_checkpoint import WorkerCheckpointStore

if TYPE_CHECKING:
    from pipeline.training.trainer import Trainer


def restore_checkpoint(experiment: Experiment, store: CheckpointStore | WorkerCheckpointStore,
                       known: int | None) -> int:
    """Restores the latest good checkpoint; returns its step, 0 for a new run.

    Args:
      experiment: with a fresh state.
      store: of the run.
      known: step of a checkpoint that was saved before, or None.

    Raises:
      RunFailure: no good checkpoint is left, or its position in the stream is not that of its step.
    """
    state, batch_size = experiment.state, experiment.plan.batch_size
    step = store.restore(known)
    state.fit_precision(experiment.settings.scale_loss)
    position = int(state.position.numpy())
    if position != step * batch_size:
        raise RunFailure(f"the checkpoint of step {step} is at example {position} of the stream, not at "
                         f"{step * batch_size}: it was made with another --batch_size")
    best = int(state.best_step.numpy())
    if best > 0 and not store.has_best(best):
        store.keep_best(best)  # The process was killed between saving this checkpoint and copying it.
    return step


def roll_back(trainer: "Trainer", diverged: Divergence, step: int) -> Restored:
    """Restores the latest checkpoint before the divergence and lowers the learning rate.

    A kill in the middle is harmless: the checkpoints on disk are from before the divergence, and the run that continues
    from them diverges and rolls back again.

    Args:
      trainer: in its loop.
      diverged: what its guard found.
      step: current step.

    Returns:
      The state to continue from.

    Raises:
      RunFailure: --on_divergence=stop, --max_rollbacks is used up, or there is no earlier checkpoint.
    """
    training, state, store = trainer.config.training, trainer.state, trainer.store
    before, is_regular = diverged.first_step - 1, trainer.plan.is_regular
    # A checkpoint that an uninterrupted run has too, if there is one: from one that a stop has saved shortly before the
    # divergence the stopped run would end otherwise.
    target = store.latest_good(lambda saved: saved <= before and is_regular(saved))
    if target is None:
        target = store.latest_good(lambda saved: saved <= before)
    try:
        where = where_it_began(trainer.experiment, diverged.first_step)
    except tf.errors.OpError as error:  # Layer by layer it needs more memory than the step.
        where = f"the layer where it began is unknown ({str(error).splitlines()[0]})"
    found = {"from_step": diverged.first_step, "to_step": diverged.last_step, "loss": diverged.loss, "where": where}
    rollbacks = int(state.rollbacks.numpy())
    if training.on_divergence == "stop" or rollbacks >= training.max_rollbacks or target is None:
        trainer.launches.record("diverged", diverged.last_step, **found)
        tried = f" after {counted(rollbacks, 'rollback')}" if rollbacks else ""
        kept = "there is no earlier checkpoint" if target is None else f"the checkpoint of step {target} is kept"
        raise RunFailure(f"{diverged}{tried}; {where}; {kept}; lower --learning_rate, or give --warmup or "
                         "--clip=norm:1")
    factor = float(state.learning_rate_factor.numpy()) * training.rollback_factor
    trainer.tracker.commit(step)
    store.forget_after(target)
    target = store.restore()
    state.fit_precision(trainer.experiment.settings.scale_loss)
    state.learning_rate_factor.assign(factor)
    state.rollbacks.assign(rollbacks + 1)
    trainer.guard.reset()
    restored = trainer.recorder.cut_after(target, int(state.evaluated_step.numpy()))
    trainer.launches.record("rollback", target, **found, learning_rate_factor=factor)
    trainer.console.warning(f"{diverged}; {where}; back to step {target} with {factor:g} times the learning rate "
                            f"(rollback {rollbacks + 1} of {training.max_rollbacks})")
    return restored
