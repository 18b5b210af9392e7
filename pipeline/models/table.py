"""The layer table of a model: names, classes, output shapes and parameters, to a given depth."""
import dataclasses
from collections.abc import Mapping, Sequence
from typing import TextIO

import keras

from pipeline.console_table import open_console, print_rows
from pipeline.models.recording import Call, record_calls
from pipeline.models.tensor_cores import MULTIPLE, misses
from pipeline.models.weight_names import named

COLUMNS = ("layer", "class", "output shape", "parameters")
MISSES = f"no multiple of {MULTIPLE}"


@dataclasses.dataclass(frozen=True)
class LayerRow:
    """One layer: name, class, output shape without the batch, parameters, depth from 1.

    As text, or None for a table without them: its learning rate, and the sizes that keep it off Tensor Cores.
    """

    name: str
    class_name: str
    output_shape: tuple[int | None, ...]
    parameters: int
    depth: int
    rate: str | None = None
    misses: str | None = None

    def cells(self) -> tuple[str, ...]:
        """Returns the texts of the row."""
        shape = "x".join("?" if n is None else str(n) for n in self.output_shape)
        more = [text for text in (self.rate, self.misses) if text is not None]
        return "  " * (self.depth - 1) + self.name, self.class_name, shape, *more, f"{self.parameters:,}"


@dataclasses.dataclass(frozen=True)
class LayerTable:
    """Rows in order of the calls, and the model's numbers of parameters."""

    title: str
    rows: tuple[LayerRow, ...]
    total: int
    trainable: int

    @property
    def columns(self) -> tuple[str, ...]:
        """The headings of the cells of its rows."""
        more = [name for name, column in (("learning rate", "rate"), (MISSES, "misses"))
                if all(getattr(row, column) is not None for row in self.rows)]
        return *COLUMNS[:-1], *more, COLUMNS[-1]

    @property
    def non_trainable(self) -> int:
        return self.total - self.trainable


def layer_table(model: keras.Model, input_shape: Sequence[int], depth: int = 2,
                factors: Mapping[str, float] | None = None, checks_tensor_cores: bool = False) -> LayerTable:
    """Returns the table of a model.

    Args:
      model: built, over images.
      input_shape: (height, width, channels).
      depth: 1 shows the layers that the model calls, 2 also those that they call, and so on.
      factors: {name: factor of the learning rate} of its weights, for one more column; None: without it.
      checks_tensor_cores: whether one more column has the sizes that keep a layer off Tensor Cores in half precision.
    """
    rates = {} if factors is None else {id(v): factors.get(name) for name, v in named(model).items()}
    rows = tuple(LayerRow(call.name, call.class_name, call.output_shape[1:], call.parameters, len(call.path),
                          None if factors is None else _rate(call, rates),
                          _misses(call, len(call.path) == depth) if checks_tensor_cores else None)
                 for call in record_calls(model, input_shape).calls if len(call.path) <= depth)
    trainable = sum(weight.shape.num_elements() for weight in model.trainable_weights)
    return LayerTable(model.name, rows, model.count_params(), trainable)


def _misses(call: Call, inside: bool) -> str:
    """Returns the sizes that keep a layer, or with `inside` what it calls too, off Tensor Cores."""
    return misses(call.layer, inside) if call.layer else ""


def _rate(call: Call, rates: Mapping[int, float | None]) -> str:
    """Returns the factors of the learning rates of a layer's weights as text, "" for a layer without weights."""
    weights = [v for v in (call.layer.variables if call.layer else ()) if rates.get(id(v)) is not None]
    found = sorted({rates[id(v)] or 0 for v in weights if v.trainable})
    if not found:
        return "frozen" if weights else ""
    span = f"x{found[0]:.3g}" + (f" to x{found[-1]:.3g}" if len(found) > 1 else "")
    return span if all(v.trainable for v in weights) else f"{span}, partly frozen"


def totals(table: LayerTable) -> str:
    """Returns the line under the table."""
    return (f"parameters: {table.total:,} total, {table.trainable:,} trainable, "
            f"{table.non_trainable:,} non-trainable")


def plain_text(table: LayerTable) -> str:
    """Returns the table as text, for files and pipes."""
    cells = [table.columns, *(row.cells() for row in table.rows)]
    widths = [max(len(line[column]) for line in cells) for column in range(len(table.columns))]
    lines = ["  ".join([*(text.ljust(width) for text, width in zip(line[:-1], widths[:-1], strict=True)),
                        line[-1].rjust(widths[-1])]) for line in cells]
    return "\n".join([table.title, *lines, totals(table)])


def show(table: LayerTable, file: TextIO) -> None:
    """Writes the table to an open text file: with rules on a terminal, plain otherwise."""
    console = open_console(file)
    if not console.is_terminal:
        print(plain_text(table), file=file)
        return
    console.print(table.title, style="bold", markup=False, highlight=False)
    print_rows(console, table.columns, [row.cells() for row in table.rows], left=range(len(table.columns) - 1),
               styles=["bold" if row.depth == 1 else "dim" for row in table.rows])
    console.print(totals(table), highlight=False)
