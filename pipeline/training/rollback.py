"""What a run does when training has diverged: back to a good checkpoint with a lower learning rate, or the end."""
import dataclasses

import tensorflow as tf

from pipeline.errors import RunFailure
from pipeline.monitoring.goodput import Ledger
from pipeline.monitoring.launches import Launches
from pipeline.monitoring.recorder import Recorder
from pipeline.quantities import counted
from pipeline.training.checkpoint import CheckpointStore
from pipeline.training.divergence import DivergenceGuard, where_it_began


@dataclasses.dataclass
class Rollback:
    """Called with a Divergence; returns the step to go on from.

    A kill in the middle is harmless: what is left on disk are checkpoints from before the divergence, and the run that
    continues from them diverges and comes here again.
    """

    experiment: object
    store: CheckpointStore
    recorder: Recorder
    ledger: Ledger
    guard: DivergenceGuard
    launches: Launches
    echo: object

    def __call__(self, diverged, step):
        """Restores the newest checkpoint from before the divergence and lowers the learning rate.

        Args:
          diverged: Divergence.
          step: the step reached.

        Returns:
          The step to go on from.

        Raises:
          RunFailure: --on_divergence=stop, --max_rollbacks is used up, or there is nothing to go back to; says where it
            began.
        """
        training, state = self.experiment.config.training, self.experiment.state
        where, target = self._where(diverged), self._target(diverged)
        rollbacks = int(state.rollbacks.numpy()) + 1
        factor = float(state.learning_rate_factor.numpy()) * training.rollback_factor
        if training.on_divergence == "stop" or rollbacks > training.max_rollbacks or target is None:
            self._end(diverged, where, rollbacks - 1, target)
        self.ledger.commit(step)
        self.store.forget_after(target)
        target = self.store.restore()
        state.fit_precision(self.experiment.settings.scale_loss)
        state.learning_rate_factor.assign(factor)
        state.rollbacks.assign(rollbacks)
        self.guard.forget()
        self.recorder.cut_after(target, int(state.evaluated_step.numpy()))
        self._note("rollback", target, diverged, where, learning_rate_factor=factor)
        self.echo(f"{diverged}; {where}; back to step {target} with {factor:g} times the learning rate (rollback "
                  f"{rollbacks} of {training.max_rollbacks})")
        return target

    def _where(self, diverged):
        try:
            return where_it_began(self.experiment, diverged.first_step)
        except tf.errors.OpError as error:  # Looking at it needs memory that there may not be.
            return f"where it began could not be found out ({str(error).splitlines()[0]})"

    def _target(self, diverged):
        """Returns the step of the checkpoint to go back to, or None.

        One that a run nobody interrupts has too, where there is one: what a stop has saved a step before the divergence
        would make the stopped run end otherwise.
        """
        plan, before = self.experiment.plan, diverged.first_step - 1
        regular = self.store.newest_good(lambda step: step <= before and plan.is_regular(step))
        return self.store.newest_good(lambda step: step <= before) if regular is None else regular

    def _end(self, diverged, where, rollbacks, target):
        self._note("diverged", diverged.last_step, diverged, where)
        tried = f" after {counted(rollbacks, 'rollback')}" if rollbacks else ""
        kept = "there is no checkpoint from before it" if target is None else f"the checkpoint of step {target} is kept"
        raise RunFailure(f"{diverged}{tried}; {where}; {kept}; lower --learning_rate, or give --warmup or --clip_norm")

    def _note(self, event, step, diverged, where, **more):
        self.launches.note(event, step, from_step=diverged.first_step, to_step=diverged.last_step, loss=diverged.loss,
                           where=where, **more)
