"""Which weights of a model train, from which step on, how fast, and with weight decay or without."""
import dataclasses
from collections.abc import Sequence

import keras

from pipeline.choices import OPTIMIZERS
from pipeline.config import ExperimentConfig
from pipeline.finetuning import parse_multipliers
from pipeline.models.depth import blocks
from pipeline.models.freezing import FreezeSchedule, freeze, select
from pipeline.models.weight_names import head, named


@dataclasses.dataclass(frozen=True)
class TrainedWeights:
    """How the weights of a model train.

    Attributes:
      freezing: which are frozen at each step.
      factors: {name: factor of the learning rate} of the weights that would train without freezing, in order.
      undecayed: names of weights that --weight_decay_exclude takes from the decay.
      head: the weights of the last layer, where the optimizer or the clipping leaves them out; else empty.
    """

    freezing: FreezeSchedule
    factors: dict[str, float]
    undecayed: frozenset[str] = frozenset()
    head: tuple[keras.Variable, ...] = ()


def trained_weights(model: keras.Model, config: ExperimentConfig, image_shape: Sequence[int],
                    thaws: Sequence[tuple[int, Sequence[str]]] = ()) -> TrainedWeights:
    """Freezes weights of a model as configured, and returns how the others train.

    Args:
      model: built, over images, before its optimizer is made.
      image_shape: (height, width, channels) of its images.
      thaws: [(step, patterns)] of --unfreeze_at, see cadence.Plan.

    Raises:
      UsageError: a pattern matches no trainable weight, a point unfreezes nothing, or no weight is left to train.
    """
    optimizer = config.optimizer
    factors = rate_factors(model, optimizer.layer_decay, parse_multipliers(optimizer.lr_multipliers), image_shape)
    undecayed = frozenset(name for pattern in optimizer.weight_decay_exclude
                          for name in select(model, pattern, "--weight_decay_exclude", image_shape))
    never = [name for name, factor in factors.items() if not factor]
    freezing = freeze(model, config.model.freeze, image_shape, thaws, config.model.frozen_batch_norm, never)
    needed = optimizer.clip or getattr(OPTIMIZERS.find(optimizer.optimizer), "leaves_out_head", False)
    last = tuple(head(model, image_shape).weights) if needed else ()
    return TrainedWeights(freezing, factors, undecayed, last)


def rate_factors(model: keras.Model, layer_decay: float, multipliers: Sequence[tuple[str, float]],
                 image_shape: Sequence[int]) -> dict[str, float]:
    """Returns the factor of the learning rate of each weight.

    It is layer_decay^depth (BEiT, arXiv:2106.08254), where the head has depth 0, the last block before it 1 and so on,
    times the factor of the last multiplier whose pattern matches.

    Args:
      model: built, over images; before anything of it is frozen.
      layer_decay: in (0, 1].
      multipliers: [(pattern, factor)], patterns as for --freeze.
      image_shape: (height, width, channels) of its images.

    Returns:
      {name: factor} of its trainable variables, in order.

    Raises:
      UsageError: a pattern matches no trainable weight.
    """
    factors = dict.fromkeys((name for name, variable in named(model).items() if variable.trainable), 1.0)
    if layer_decay != 1:
        for depth, (_, names) in enumerate(reversed(blocks(model, image_shape))):
            factors.update({name: layer_decay ** depth for name in names if name in factors})
    chosen: dict[str, float] = {}
    for pattern, factor in multipliers:
        chosen.update(dict.fromkeys(select(model, pattern, "--lr_multipliers", image_shape), factor))
    return {name: factor * chosen.get(name, 1.0) for name, factor in factors.items()}
