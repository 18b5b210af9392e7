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
                           rewarmup_at: Sequence[int] = (), rewarmup_steps: int = 0, drop_every: float = 0.0
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
      drop_every: steps from one drop of the schedule "step" to the next, 0 for drops at `step_decay_at`.

    Returns:
      A function of an int64 scalar tensor (steps done before this one) to a float32 scalar tensor, > 0.
    """
    rate = _schedule(config, total_steps, warmup_steps, drop_every)
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


def _schedule(config, total_steps, warmup_steps, drop_every):
    """Returns the learning rate of the configured schedule with its warm-up."""
    peak = config.learning_rate
    if config.schedule == "one-cycle":
        rise = warmup_steps or max(1, round(ONE_CYCLE_RISE * total_steps))
        return lambda step: _one_cycle(peak, rise, total_steps, tf.cast(step, tf.float32))
    decayed = _decay(config, peak, total_steps, drop_every)

    def rate(step):
        step = tf.cast(step, tf.float32)
        value = decayed(step, (step - warmup_steps) / max(1, total_steps - warmup_steps))
        if warmup_steps:
            value = tf.where(step < warmup_steps, peak * (step + 1.0) / warmup_steps, value)
        return value

    return rate


def _decay(config, peak, total_steps, drop_every):
    """Returns the rate after warm-up as a function of the step and of the share of the steps after warm-up done."""
    lowest, power = config.min_learning_rate, config.polynomial_power if config.schedule == "polynomial" else 1.0
    if config.schedule == "cosine":
        starts, lengths = _cycles(config.restarts, config.restart_growth)
        return lambda step, share: _cosine(peak, lowest, _of_cycle(share, starts, lengths))
    if config.schedule in ("linear", "polynomial"):
        return lambda step, share: lowest + (peak - lowest) * (1.0 - tf.clip_by_value(share, 0.0, 1.0)) ** power
    if config.schedule == "step" and drop_every:
        return lambda step, share: peak * tf.pow(config.step_decay_factor, tf.floor(step / drop_every))
    if config.schedule == "step":
        drops = [float(part) * total_steps for part in config.step_decay_at]
        return lambda step, share: peak * tf.pow(config.step_decay_factor, tf.add_n(
            [tf.cast(step >= drop, tf.float32) for drop in drops]))
    return lambda step, share: tf.constant(peak, tf.float32)


def _cycles(restarts, growth):
    """Returns starts and lengths of the cycles of SGDR (Loshchilov and Hutter, arXiv:1608.03983) as shares of a run."""
    lengths = [growth ** i for i in range(restarts + 1)]
    lengths = [length / sum(lengths) for length in lengths]
    return [sum(lengths[:i]) for i in range(restarts + 1)], lengths


def _of_cycle(share, starts, lengths):
    """Returns the share of its cycle that is done at a share of the run."""
    if len(starts) == 1:
        return share
    cycle = tf.reduce_sum(tf.cast(share >= tf.constant(starts[1:], tf.float32), tf.int32))
    return (share - tf.gather(tf.constant(starts, tf.float32), cycle)) / tf.gather(
        tf.constant(lengths, tf.float32), cycle)


def _one_cycle(peak, rise, total_steps, step):
    start = peak * ONE_CYCLE_START
    up = _cosine(start, peak, step / rise)
    down = _cosine(peak, start * ONE_CYCLE_END, (step - rise) / max(1, total_steps - rise - 1))
    return tf.where(step < rise, up, down)
