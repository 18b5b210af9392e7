"""Learning-rate schedules: pure functions of the global step, so that a resumed run needs no state for them."""
import math
from collections.abc import Callable, Sequence

import tensorflow as tf

from pipeline.config import OptimizerConfig

ONE_CYCLE_RISE = 0.3  # Share of the run in which one-cycle rises: the default of fast.ai and PyTorch.
ONE_CYCLE_START, ONE_CYCLE_END = 1 / 25, 1e-4  # First rate over the peak, and last rate over the first.


def _cosine(start, end, share):
    """Moves from `start` to `end` along half a cosine as `share` goes from 0 to 1."""
    return end + (start - end) * 0.5 * (1.0 + tf.cos(math.pi * tf.clip_by_value(share, 0.0, 1.0)))


def learning_rate_schedule(config: OptimizerConfig, total_steps: int, warmup_steps: int,
                           rewarmup_at: Sequence[int] = (), rewarmup_steps: int = 0
                           ) -> Callable[[tf.Tensor], tf.Tensor]:
    """Returns the learning rate as a function of the global step.

    Warm-up rises linearly so that the step `warmup_steps` (counted from 1) has the full rate (Goyal et al. 2017,
    arXiv:1706.02677); the schedule spans the remaining steps. one-cycle (Smith, arXiv:1708.07120) has its own warm-up,
    whose length --warmup sets.

    Args:
      total_steps: length of the run in steps.
      warmup_steps: steps of warm-up, 0 for none.
      rewarmup_at: steps after which the rate rises linearly from 0 to the schedule's own once more, ascending.
      rewarmup_steps: steps of each such rise, 0 for none.

    Returns:
      A function of an int64 scalar tensor (steps done before this one) to a float32 scalar tensor, > 0.
    """
    rate = _schedule(config, total_steps, warmup_steps)
    if not (rewarmup_at and rewarmup_steps):
        return rate

    def rewarmed(step):
        value = rate(step)
        done, part = tf.cast(step, tf.float32), tf.ones([], tf.float32)
        for start in rewarmup_at:
            risen = tf.minimum((done - start + 1.0) / rewarmup_steps, 1.0)
            part = tf.where(done >= start, risen, part)
        return value * part

    return rewarmed


def _schedule(config, total_steps, warmup_steps):
    """Returns the learning rate of the configured schedule with its warm-up."""
    peak = config.learning_rate
    if config.schedule == "one-cycle":
        rise = warmup_steps or max(1, round(ONE_CYCLE_RISE * total_steps))
        return lambda step: _one_cycle(peak, rise, total_steps, tf.cast(step, tf.float32))
    drops = [float(part) for part in config.step_decay_at]

    def rate(step):
        step = tf.cast(step, tf.float32)
        share = (step - warmup_steps) / max(1, total_steps - warmup_steps)
        if config.schedule == "cosine":
            value = _cosine(peak, 0.0, share)
        elif config.schedule == "step":
            passed = tf.add_n([tf.cast(step >= drop * total_steps, tf.float32) for drop in drops])
            value = peak * tf.pow(config.step_decay_factor, passed)
        else:
            value = tf.constant(peak, tf.float32)
        if warmup_steps:
            value = tf.where(step < warmup_steps, peak * (step + 1.0) / warmup_steps, value)
        return value

    return rate


def _one_cycle(peak, rise, total_steps, step):
    start = peak * ONE_CYCLE_START
    up = _cosine(start, peak, step / rise)
    down = _cosine(peak, start * ONE_CYCLE_END, (step - rise) / max(1, total_steps - rise - 1))
    return tf.where(step < rise, up, down)
