"""From flag values to an ExperimentConfig, with the defaults that a data set brings.

There are three layers, the later one winning: the defaults of pipeline.config, the recipe of the data set, and what the
user gave on the command line or in a flag file. So `mirrorline train` without any flag is a run that is known to work,
and `mirrorline train --dataset=mnist` is not tuned for other data.
"""
import functools
from collections.abc import Mapping
from typing import Any

from absl import flags

import recipes
from flags.definitions import define_options, is_option
from flags.parsing import EXCLUSIVE, parse
from pipeline import config

RECIPES = {"digits": "digits.flags"}


@functools.cache
def dataset_defaults(dataset: str) -> dict[str, Any]:
    """Returns {option name: value} that the recipe of a data set sets; {} for a data set without a recipe."""
    if dataset not in RECIPES:
        return {}
    flag_values = flags.FlagValues()
    define_options(flag_values, groups=tuple(config.GROUPS))
    parse([f"--flagfile={recipes.path(RECIPES[dataset])}"], flag_values, command=RECIPES[dataset])
    return given_options(flag_values)


def with_dataset_defaults(given: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the options given by the user, {name: value}, completed by those of the data set's recipe."""
    defaults = dataset_defaults(given.get("dataset", config.options()["dataset"].default))
    replaced = {name for names in EXCLUSIVE if set(names) & set(given) for name in names}
    return {**{name: value for name, value in defaults.items() if name not in replaced}, **given}


def given_options(flag_values: flags.FlagValues) -> dict[str, Any]:
    """Returns {option name: value} of the options set on the command line or in a flag file.

    A command that works on an existing run takes the others from that run instead of from the defaults.
    """
    return {name: flag_values[name].value for name in config.options()
            if is_option(flag_values, name) and not flag_values[name].using_default_value}


def config_from_flags(flag_values: flags.FlagValues) -> config.ExperimentConfig:
    """Returns the configuration that the values of the flags amount to, over the defaults.

    Args:
      flag_values: after parsing. Options that the command does not offer keep their defaults.

    Raises:
      UsageError: a value out of its range, or values that cannot be combined.
    """
    return config.ExperimentConfig.from_flat(with_dataset_defaults(given_options(flag_values)))
