"""What a run does when training has diverged: back to a good checkpoint with a lower learning rate, or the end."""
import dataclasses
import time

from pipeline.errors import RunFailure
from pipeline.monitoring.goodput import Ledger
from pipeline.monitoring.metrics_log import JsonLines
from pipeline.monitoring.recorder import Recorder
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
    launches: JsonLines
    echo: object

    def __call__(self, diverged):
        """Restores the newest checkpoint from before the divergence and lowers the learning rate.

        Raises:
          RunFailure: --on_divergence=stop, or --max_rollbacks is used up; says where it began.
        """
        training, state = self.experiment.config.training, self.experiment.state
        where = where_it_began(self.experiment, diverged.first_step)
        rollbacks = int(state.rollbacks.numpy()) + 1
        factor = float(state.learning_rate_factor.numpy()) * training.rollback_factor
        if training.on_divergence == "stop" or rollbacks > training.max_rollbacks:
            self._end(diverged, where, rollbacks - 1)
        self.ledger.commit(diverged.last_step)
        self.store.sync()
        self.store.forget_after(diverged.first_step - 1)
        step = self.store.restore()
        state.learning_rate_factor.assign(factor)
        state.rollbacks.assign(rollbacks)
        self.guard.forget()
        self.recorder.cut_after(step, int(state.evaluated_step.numpy()))
        self._note("rollback", step, diverged, where, learning_rate_factor=factor)
        self.echo(f"{diverged}; {where}; back to step {step} with {factor:g} times the learning rate (rollback "
                  f"{rollbacks} of {training.max_rollbacks})")
        return step

    def _end(self, diverged, where, rollbacks):
        self._note("diverged", diverged.last_step, diverged, where)
        tried = f" after {rollbacks} rollback{'s' * (rollbacks > 1)}" if rollbacks else ""
        raise RunFailure(f"{diverged}{tried}; {where}; lower --learning_rate, or give --warmup or --clip_norm "
                         "(checkpoints from before it are kept)")

    def _note(self, event, step, diverged, where, **more):
        self.launches.append([{"event": event, "step": step, "wall_time": time.time(),
                               "from_step": diverged.first_step, "to_step": diverged.last_step, "loss": diverged.loss,
                               "where": where, **more}])
        self.launches.sync()
