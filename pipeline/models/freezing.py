"""Weights that stay as they are while the rest of a model trains (--freeze)."""
import dataclasses
import fnmatch
import math

from pipeline.errors import UsageError, nearest
from pipeline.internals.keras_internals import layers_of
from pipeline.models.weight_names import head, is_float, named, names_in
from pipeline.quantities import counted

BACKBONE = "backbone"  # Everything but the head, unless a layer of the model is called so.


@dataclasses.dataclass(frozen=True)
class Frozen:
    """What does not train.

    Attributes:
      names: of the weights that would train otherwise, in the model's order.
      parameters: how many numbers they hold.
      weights: how many weights (variables) would train otherwise.
      trained: how many numbers of the model train now.
      held: list of keras.Variable that no step may change: these weights, and the moving statistics of layers all of
        whose weights are frozen.
    """

    names: tuple
    parameters: int
    weights: int
    trained: int
    held: list

    def describe(self):
        """Returns what config.json says of it, or None where everything trains."""
        if not self.names:
            return None
        return {"variables": list(self.names), "parameters": self.parameters, "trained_parameters": self.trained}

    def text(self):
        """Returns it in words."""
        stay = counted(self.parameters, "parameter stays", "parameters stay")
        return f"{len(self.names)} of {counted(self.weights, 'weight')}: {stay}, {self.trained:,} train"



def freeze(model, patterns, image_shape):
    """Freezes weights of a model: they leave its trainable variables, as `layer.trainable = False` does in Keras.

    A layer all of whose weights are frozen runs as in inference: batch normalization uses its moving statistics and
    leaves them alone. Dropout stays what it is.

    Args:
      model: built keras.Model over images, before its optimizer is made.
      patterns: shell-style patterns ("block1", "block?/norm", "*/bias"). One that matches the path of a layer means all
        that is in it; "backbone" means everything but the last layer with weights.
      image_shape: (height, width, channels) of its images.

    Returns:
      A Frozen.

    Raises:
      UsageError: a pattern matches nothing that trains, or nothing is left to train.
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


def matches(name, pattern):
    """Tells whether a pattern matches the path of a variable, or that of a layer that it is in."""
    parts = name.split("/")
    return any(fnmatch.fnmatchcase("/".join(parts[:end]), pattern) for end in range(1, len(parts) + 1))


def _hold(model, chosen):
    """Freezes the variables of the given ids; returns those that no step may change, a list of keras.Variable."""
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
