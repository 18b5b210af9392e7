"""Options that follow from others, filled in before a configuration is checked. Standard library only.

Each function takes a group of options and returns it with what follows.
"""
import dataclasses
from typing import Any

from pipeline.choices import OPTIMIZERS, OptimizerRow
from pipeline.errors import UsageError
from pipeline.image_sizes import parse_sizes
from pipeline.options import parse_clip


def with_last_size(data: Any) -> Any:
    """Returns a DataConfig with the image size that follows from --image_sizes, if any: the last."""
    sizes = parse_sizes(data.image_sizes)
    if sizes and data.image_size not in (None, sizes[-1][0]):
        raise UsageError(f"--image_size={data.image_size} and --image_sizes={','.join(data.image_sizes)} both set the "
                         "size of images: give one")
    return dataclasses.replace(data, image_size=sizes[-1][0]) if sizes else data


def default_momentum(optimizer: str) -> float:
    """Returns the momentum of an optimizer, 0.9 for one without: earlier runs have stored that."""
    row = OPTIMIZERS.get(optimizer)
    return row.options.get("momentum", ("", 0.9))[1] if isinstance(row, OptimizerRow) else 0.9


def with_momentum(optimizer: Any) -> Any:
    """Returns an OptimizerConfig with the momentum of its optimizer, if none is given."""
    if optimizer.momentum is not None:
        return optimizer
    return dataclasses.replace(optimizer, momentum=default_momentum(optimizer.optimizer))


def with_one_clip(optimizer: Any) -> Any:
    """Returns an OptimizerConfig with --clip=norm:NUMBER as --clip_norm, which earlier runs have stored."""
    kind, limit = parse_clip(optimizer.clip) if optimizer.clip is not None else ("", 0.0)
    if kind and optimizer.clip_norm not in (0.0, limit if kind == "norm" else 0.0):
        raise UsageError(f"--clip={optimizer.clip} and --clip_norm={optimizer.clip_norm:g} both clip: give one")
    return dataclasses.replace(optimizer, clip=None, clip_norm=limit) if kind == "norm" else optimizer


def with_scaled_rate(optimizer: Any, batch_size: int, default: float) -> Any:
    """Returns an OptimizerConfig with the learning rate that follows from --base_learning_rate (Goyal et al. 2017).

    `default`: that of the learning rate.
    """
    if optimizer.base_learning_rate is None:
        return optimizer
    rate = optimizer.base_learning_rate * batch_size / optimizer.base_batch_size
    if optimizer.learning_rate not in (rate, default):
        raise UsageError(f"--learning_rate={optimizer.learning_rate:g} and --base_learning_rate="
                         f"{optimizer.base_learning_rate:g} (which is {rate:g} for a batch of {batch_size}) both set "
                         "the learning rate: give one")
    return dataclasses.replace(optimizer, learning_rate=rate)
