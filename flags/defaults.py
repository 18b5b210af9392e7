"""The defaults that a data set brings with it.

There are three layers, the later one winning: the defaults of pipeline.config, the recipe of the data set where it has
one, and what the user gave on the command line or in a flag file. So `mirrorline train` without any flag is a run that
is known to work, and `mirrorline train --dataset=mnist` is not tuned to something else.
"""
import functools

from absl import flags

import recipes
from flags.definitions import define_options
from flags.parsing import parse
from pipeline import config

RECIPES = {"digits": "digits.flags"}
# Options that say the same thing in two ways: where the user gives one, the recipe's other one has no place.
EXCLUSIVE = (("epochs", "steps"),)


@functools.cache
def dataset_defaults(dataset):
    """Returns {option name: value} that the recipe of a data set sets; {} for a data set without a recipe."""
    if dataset not in RECIPES:
        return {}
    flag_values = flags.FlagValues()
    define_options(flag_values, groups=tuple(config.GROUPS))
    parse([f"--flagfile={recipes.path(RECIPES[dataset])}"], flag_values, command=RECIPES[dataset])
    return {name: flag_values[name].value for name in config.options() if not flag_values[name].using_default_value}


def with_dataset_defaults(given):
    """Returns the options given by the user, {name: value}, completed by those of the data set's recipe."""
    dataset = given.get("dataset", config.options()["dataset"].default)
    defaults = dict(dataset_defaults(dataset))
    for names in EXCLUSIVE:
        if any(name in given for name in names):
            defaults = {name: value for name, value in defaults.items() if name not in names}
    return {**defaults, **given}
