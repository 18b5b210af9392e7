"""mirrorline recipes: lists the installed recipes with their known results."""
import textwrap

from absl import flags as absl_flags

import flags
import recipes
from pipeline.config import ExperimentConfig

SUMMARY = "list recipes: flags of trainings worth repeating, with what came of them"
PLACE = 15
GROUPS = ()
ONLY = ()


def define(flag_values: absl_flags.FlagValues) -> None:
    """Defines no flags."""


def run(config: ExperimentConfig, flag_values: absl_flags.FlagValues) -> int:
    """Prints the recipes; returns the exit code."""
    width = flags.terminal_width()
    for name in recipes.names():
        print(described(recipes.read(name), width), end="\n\n")
    print(textwrap.fill("Train one with 'mirrorline train --recipe=NAME'; flags that are given with it win. Their "
                        "files are in", width, break_on_hyphens=False))
    print(recipes.FOLDER)  # Whole, to be copied.
    return 0


def described(recipe: recipes.Recipe, width: int) -> str:
    """Returns the lines about a recipe, at most `width` columns wide."""
    rows = [("data", recipe.value("dataset") or ("digits" if recipe.name == "digits" else "yours")),
            ("model", recipe.value("model") or "yours"),
            *((name, text) for name in recipes.FIGURES if (text := getattr(recipe, name)))]
    parts = [("    ", " " * 4, recipe.summary), *((f"    {name:8}", " " * 12, text) for name, text in rows)]
    return "\n".join([recipe.name, *(line for first, later, text in parts for line in textwrap.wrap(
        text, width, initial_indent=first, subsequent_indent=later))])
