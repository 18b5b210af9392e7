"""Freezing weights of a model (--freeze)."""
import dataclasses
import fnmatch
import math
from collections.abc import Sequence
from typing import Any

import keras

from pipeline.errors import UsageError, nearest
from pipeline.internals.keras_internals import layers_of
from pipeline.models.weight_names import head, is_float, named, names_in
from pipeline.quantities import counted

BACKBONE = "backbone"  # Everything but the head, unless a layer of the model has this name.


@dataclasses.dataclass(frozen=True)
class Frozen:
    """The frozen part of a model.

    Attributes:
      names: of the frozen weights, in the model's order.
      parameters: their number of parameters.
      weights: number of weights (variables) that would train without freezing.
      trained: number of parameters that train.
      held: variables that no step may change: the frozen weights, and the moving statistics of layers all of whose
        weights are frozen.
    """

    names: tuple[str, ...]
    parameters: int
    weights: int
    trained: int
    held: list[keras.Variable]

    def describe(self) -> dict[str, Any] | None:
        """Returns its record in config.json, or None where everything trains."""
        if not self.names:
            return None
        return {"variables": list(self.names), "parameters": self.parameters, "trained_parameters": self.trained}

    def text(self) -> str:
        """Returns it in words."""
        stay = counted(self.parameters, "parameter stays", "parameters stay")
        return f"{len(self.names)} of {counted(self.weights, 'weight')}: {stay}, {self.trained:,} train"


def freeze(model: keras.Model, patterns: Sequence[str], image_shape: Sequence[int]) -> Frozen:
    """Freezes weights of a model: they leave its trainable variables, as with `layer.trainable = False` in Keras.

    A layer all of whose weights are frozen runs in inference mode: batch normalization uses its moving statistics and
    does not update them. Dropout is unaffected.

    Args:
      model: built, over images, before its optimizer is made.
      patterns: shell-style patterns ("block1", "block?/norm", "*/bias"). One that matches the path of a layer selects
        everything in it; "backbone" selects everything but the last layer with weights.
      image_shape: (height, width, channels) of its images.

    Raises:
      UsageError: a pattern matches no trainable weight, or no weight is left to train.
    """
    variables, chosen = named(model), set()
    trained = {name for name, variable in variables.items() if variable.trainable}
    for pattern in patterns:
        found = {name for name in variables if matches(name, pattern)}
        if not found and pattern == BACKBONE:
            found = variables.keys() - names_in(head(model, image_shape), variables)
        if not found & trained:
            raise _no_match(pattern, trained, model.name)
        chosen |= found
    if trained and trained <= chosen:
        raise UsageError(f"--freeze={','.join(patterns)} leaves nothing of model {model.name} to train; leave out its "
                         f"last layer: --freeze={BACKBONE}")
    held = _hold(model, {id(variables[name]) for name in chosen})
    names = tuple(name for name in variables if name in chosen & trained)
    left = sum(math.prod(v.shape) for v in model.trainable_variables)
    return Frozen(names, sum(math.prod(variables[name].shape) for name in names), len(trained), left, held)


def matches(name: str, pattern: str) -> bool:
    """Returns whether a pattern matches the path of a variable, or of a layer that contains it."""
    parts = name.split("/")
    return any(fnmatch.fnmatchcase("/".join(parts[:end]), pattern) for end in range(1, len(parts) + 1))


def _hold(model, chosen):
    """Freezes the variables of the given ids; returns the list of variables that no step may change."""
    held = {id(v): v for v in model.trainable_variables if id(v) in chosen}
    whole = [layer for layer in layers_of(model) if any(id(v) in chosen for v in layer.variables)
             and all(id(v) in chosen for v in layer.trainable_variables)]
    for layer in whole:
        held.update({id(v): v for v in layer.variables if is_float(v)})
    for layer in whole:
        layer.trainable = False
    for variable in held.values():
        variable.trainable = False
    return list(held.values())


def _no_match(pattern, trained, model_name):
    """Returns the UsageError about a pattern that freezes nothing."""
    known = {"/".join(name.split("/")[:end]) for name in trained for end in range(1, name.count("/") + 2)}
    guess = nearest(pattern.strip("*/"), [*known, BACKBONE])
    layers = list(dict.fromkeys(name.split("/")[0] for name in sorted(trained)))
    suggestion = f"did you mean '{guess}'? " if guess else ""
    return UsageError(f"--freeze={pattern} matches no weight of model {model_name}: {suggestion}its layers: "
                      f"{', '.join(layers)}; '{BACKBONE}' is all but the last; 'mirrorline inspect' shows more")
