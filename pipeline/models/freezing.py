"""Freezing weights of a model (--freeze), for the whole run or until a step (--unfreeze_at)."""
import dataclasses
import fnmatch
import math
from collections.abc import Collection, Mapping, Sequence
from typing import Any

import keras

from pipeline.errors import UsageError, nearest
from pipeline.internals.keras_internals import layers_of
from pipeline.models.depth import blocks
from pipeline.models.normalization import BatchNormalization
from pipeline.models.trainability import freeze_parts, frozen_parts
from pipeline.models.weight_names import head, is_float, named, names_in
from pipeline.quantities import counted

# Unless a layer of the model has this name: everything, everything but the last layer, the last layer, the first block.
ALL, BACKBONE, HEAD, STEM = "all", "backbone", "head", "stem"


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

    def describe(self) -> dict[str, Any]:
        """Returns its record in config.json."""
        return {"variables": list(self.names), "parameters": self.parameters, "trained_parameters": self.trained}

    def text(self) -> str:
        """Returns it in words."""
        if not self.names:
            return f"none: all {self.trained:,} parameters train"
        stay = counted(self.parameters, "parameter stays", "parameters stay")
        return f"{len(self.names)} of {counted(self.weights, 'weight')}: {stay}, {self.trained:,} train"


@dataclasses.dataclass(frozen=True)
class Phase:
    """Steps with the same frozen weights.

    Attributes:
      start: steps done before the first of them.
      frozen: the frozen part of the model.
      parts: what does not train, see trainability.frozen_parts.
    """

    start: int
    frozen: Frozen
    parts: Mapping[str, Sequence[int]]


class FreezeSchedule:
    """What of a model is frozen at each step of a run: a pure function of the number of steps done.

    Attributes:
      phases: in order, the first from step 0.
      since: {name: index of the phase from which it trains} of the weights that ever train, in the model's order.
    """

    def __init__(self, model: keras.Model, phases: Sequence[Phase], since: Mapping[str, int]):
        """Use `freeze`; the model is in the first phase."""
        self._model, self._current = model, 0
        self.phases, self.since = tuple(phases), dict(since)

    @property
    def frozen(self) -> Frozen:
        """The frozen part in the current phase."""
        return self.phases[self._current].frozen

    def enter(self, step: int) -> bool:
        """Freezes what the step after `step` steps does not train; returns whether that is another part than before."""
        index = max(i for i, phase in enumerate(self.phases) if phase.start <= step)
        changes, self._current = index != self._current, index
        if changes:
            freeze_parts(self._model, self.phases[index].parts)
        return changes

    def describe(self) -> dict[str, Any] | None:
        """Returns its record in config.json, or None where everything trains from the first step."""
        first, *later = self.phases
        if not first.frozen.names:
            return None
        thaws = [{"step": phase.start, **phase.frozen.describe()} for phase in later]
        return {**first.frozen.describe(), **({"unfreeze_at": thaws} if thaws else {})}

    def lines(self) -> list[str]:
        """Returns it in words, a line a phase; [] where everything trains from the first step."""
        if not self.phases[0].frozen.names:
            return []
        return [phase.frozen.text() + (f", after step {phase.start}" if phase.start else "") for phase in self.phases]


def freeze(model: keras.Model, patterns: Sequence[str], image_shape: Sequence[int],
           thaws: Sequence[tuple[int, Sequence[str]]] = (), batch_norm: str = "inference",
           never: Collection[str] = ()) -> FreezeSchedule:
    """Freezes weights of a model: they leave its trainable variables, as with `layer.trainable = False` in Keras.

    A layer all of whose weights are frozen runs in inference mode: batch normalization uses its moving statistics and
    does not update them. Dropout is unaffected.

    Args:
      model: built, over images, before its optimizer is made.
      patterns: shell-style patterns ("block1", "block?/norm", "*/bias"). One that matches the path of a layer selects
        everything in it; "backbone" selects everything but the last layer with weights, "head" that layer, "stem" the
        first block (see depth.blocks), "all" all.
      image_shape: (height, width, channels) of its images.
      thaws: [(step, patterns)], ascending: after these steps what they match trains.
      batch_norm: "inference", or "train": frozen batch normalization uses the statistics of the batch and updates its
        moving ones.
      never: names of weights that do not train in any phase.

    Returns:
      The schedule, in its first phase.

    Raises:
      UsageError: a pattern matches no trainable weight, a point unfreezes nothing, or no weight is left to train.
    """
    variables = named(model)
    trained = {name for name, variable in variables.items() if variable.trainable}
    chosen = {name for pattern in patterns for name in select(model, pattern, "--freeze", image_shape)} | set(never)
    if trained and trained <= chosen:
        raise UsageError(f"--freeze={','.join(patterns)} leaves nothing of model {model.name} to train; leave out its "
                         f"last layer: --freeze={BACKBONE}" if patterns else
                         f"every learning rate of model {model.name} is 0: --lr_multipliers leaves nothing to train")
    unfrozen, steps, left = frozen_parts(model), [0, *(step for step, _ in thaws)], [chosen]
    for _, found in thaws:
        names = {name for pattern in found for name in select(model, pattern, "--unfreeze_at", image_shape)}
        left.append(left[-1] - (names - set(never)))
        if not (left[-2] - left[-1]) & trained:
            raise UsageError(f"--unfreeze_at: {','.join(found)} of model {model.name} trains already; a point must "
                             f"unfreeze something of {_layers(left[-2] & trained) or 'what is frozen, and nothing is'}")
    phases = []
    for step, names in zip(steps, left, strict=True):
        freeze_parts(model, unfrozen)
        held = _hold(model, {id(variables[name]) for name in names}, batch_norm)
        phases.append(Phase(step, _frozen(model, variables, trained, names, held), frozen_parts(model)))
    freeze_parts(model, phases[0].parts)
    since = {name: next(i for i, names in enumerate(left) if name not in names)
             for name in variables if name in trained - left[-1]}
    return FreezeSchedule(model, phases, since)


def matches(name: str, pattern: str) -> bool:
    """Returns whether a pattern matches the path of a variable, or of a layer that contains it."""
    parts = name.split("/")
    return any(fnmatch.fnmatchcase("/".join(parts[:end]), pattern) for end in range(1, len(parts) + 1))


def select(model: keras.Model, pattern: str, flag: str, image_shape: Sequence[int]) -> set[str]:
    """Returns the names of a model's float variables that a pattern matches, see `freeze`.

    Args:
      flag: for the message, "--freeze".

    Raises:
      UsageError: it matches no trainable weight.
    """
    variables = named(model)
    found = {name for name in variables if matches(name, pattern)}
    if not found and pattern in (BACKBONE, HEAD):
        last = names_in(head(model, image_shape), variables)
        found = last if pattern == HEAD else variables.keys() - last
    if not found and pattern == STEM:
        found = set(blocks(model, image_shape)[0][1])
    if not found and pattern == ALL:
        found = set(variables)
    trained = {name for name in variables if variables[name].trainable}
    if not found & trained:
        raise _no_match(flag, pattern, trained, model.name)
    return found


def _frozen(model, variables, trained, chosen, held):
    """Returns the Frozen of a model of which the variables of the chosen names are frozen."""
    names = tuple(name for name in variables if name in chosen & trained)
    left = sum(math.prod(v.shape) for v in model.trainable_variables)
    return Frozen(names, sum(math.prod(variables[name].shape) for name in names), len(trained), left, held)


def _hold(model, chosen, batch_norm):
    """Freezes the variables of the given ids; returns the list of variables that no step may change."""
    held = {id(v): v for v in model.trainable_variables if id(v) in chosen}
    whole = [layer for layer in layers_of(model) if any(id(v) in chosen for v in layer.variables)
             and all(id(v) in chosen for v in layer.trainable_variables)]
    training = [layer for layer in whole if batch_norm == "train"
                and isinstance(layer, BatchNormalization | keras.layers.BatchNormalization)]
    updated = {id(v) for layer in training for v in layer.non_trainable_variables}
    for layer in whole:
        held.update({id(v): v for v in layer.variables if is_float(v) and id(v) not in updated})
    for layer in whole:
        layer.trainable = False
    for layer in training:  # After the layers around them, which set all layers inside.
        layer.trainable = True
    for variable in held.values():
        variable.trainable = False
    # Statistics of the data set, which no step changes: the mean of three equal numbers is not always that number.
    constant = [v for layer in layers_of(model) if isinstance(layer, keras.layers.Normalization)
                for v in layer.variables if is_float(v)]
    return [*held.values(), *(v for v in constant if id(v) not in held)]


def _layers(names):
    """Returns the names of the outermost layers of weights as text."""
    return ", ".join(dict.fromkeys(name.split("/")[0] for name in sorted(names)))


def _no_match(flag, pattern, trained, model_name):
    """Returns the UsageError about a pattern that matches nothing."""
    known = {"/".join(name.split("/")[:end]) for name in trained for end in range(1, name.count("/") + 2)}
    guess = nearest(pattern.strip("*/"), [*known, BACKBONE, HEAD, STEM])
    suggestion = f"did you mean '{guess}'? " if guess else ""
    return UsageError(f"{flag}={pattern} matches no weight of model {model_name}: {suggestion}its layers: "
                      f"{_layers(trained)}; '{BACKBONE}' is all but the last; 'mirrorline inspect' shows more")
