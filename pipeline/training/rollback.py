"""What a run does when training has diverged: back to a good checkpoint with a lower learning rate, or the end."""
import tensorflow as tf

from pipeline.callbacks import Restored
from pipeline.errors import RunFailure
from pipeline.quantities import counted
from pipeline.training.divergence import Divergence, where_it_began


def roll_back(trainer, diverged: Divergence, step: int) -> Restored:
    """Restores the newest checkpoint from before the divergence and lowers the learning rate.

    A kill in the middle is harmless: what is left on disk are checkpoints from before the divergence, and the run that
    continues from them diverges and comes here again.

    Args:
      trainer: pipeline.training.trainer.Trainer, in its loop.
      diverged: what its guard saw.
      step: the step reached.

    Returns:
      The state to go on from.

    Raises:
      RunFailure: --on_divergence=stop, --max_rollbacks is used up, or there is nothing to go back to; says where it
        began.
    """
    training, state = trainer.config.training, trainer.state
    where, target = _where(trainer.experiment, diverged), _target(trainer.plan, trainer.store, diverged)
    rollbacks = int(state.rollbacks.numpy()) + 1
    factor = float(state.learning_rate_factor.numpy()) * training.rollback_factor
    if training.on_divergence == "stop" or rollbacks > training.max_rollbacks or target is None:
        _end(trainer.launches, diverged, where, rollbacks - 1, target)
    trainer.tracker.commit(step)
    trainer.store.forget_after(target)
    target = trainer.store.restore()
    state.fit_precision(trainer.experiment.settings.scale_loss)
    state.learning_rate_factor.assign(factor)
    state.rollbacks.assign(rollbacks)
    trainer.guard.forget()
    restored = trainer.recorder.cut_after(target, int(state.evaluated_step.numpy()))
    _note(trainer.launches, "rollback", target, diverged, where, learning_rate_factor=factor)
    trainer.console.warning(f"{diverged}; {where}; back to step {target} with {factor:g} times the learning rate "
                            f"(rollback {rollbacks} of {training.max_rollbacks})")
    return restored


def _where(experiment, diverged):
    try:
        return where_it_began(experiment, diverged.first_step)
    except tf.errors.OpError as error:  # Looking at it needs memory that there may not be.
        return f"where it began could not be found out ({str(error).splitlines()[0]})"


def _target(plan, store, diverged):
    """Returns the step of the checkpoint to go back to, or None.

    One that a run nobody interrupts has too, where there is one: what a stop has saved a step before the divergence
    would make the stopped run end otherwise.
    """
    before = diverged.first_step - 1
    regular = store.newest_good(lambda step: step <= before and plan.is_regular(step))
    return store.newest_good(lambda step: step <= before) if regular is None else regular


def _end(launches, diverged, where, rollbacks, target):
    _note(launches, "diverged", diverged.last_step, diverged, where)
    tried = f" after {counted(rollbacks, 'rollback')}" if rollbacks else ""
    kept = "there is no checkpoint from before it" if target is None else f"the checkpoint of step {target} is kept"
    raise RunFailure(f"{diverged}{tried}; {where}; {kept}; lower --learning_rate, or give --warmup or --clip_norm")


def _note(launches, event, step, diverged, where, **more):
    launches.record(event, step, from_step=diverged.first_step, to_step=diverged.last_step, loss=diverged.loss,
                    where=where, **more)
