"""Tables for the terminal: columns where the window is wide enough, otherwise a few lines for each row."""
import shutil
from collections.abc import Collection, Iterable, Sequence
from typing import TYPE_CHECKING, Any, TextIO

from pipeline.terminal import printable

# Imports inside functions: rich takes time, and only tables need it.

if TYPE_CHECKING:  # Rich takes 0.1 s to import, which commands without a table do not spend.
    import rich.console
    import rich.table
    import rich.text

LEAST = 12  # Least width of a text that may be broken, in columns of the terminal.
INDENT = 2


def open_console(file: TextIO, width: int | None = None) -> "rich.console.Console":
    """Returns the rich.console.Console of an open text file.

    Args:
      file: standard output, for example.
      width: columns where it is no terminal; nothing is coloured there.
    """
    import rich.console

    console = rich.console.Console(file=file)
    if not console.is_terminal and width:
        return rich.console.Console(file=file, width=width, no_color=True)
    if console.is_dumb_terminal:  # Rich assumes 80 columns for all of these.
        width, height = shutil.get_terminal_size()
        return rich.console.Console(file=file, width=width, height=height)
    return console


def print_rows(console: "rich.console.Console", columns: Sequence[str],
               rows: Iterable[Sequence["str | rich.text.Text"]], left: Collection[int] = (0,),
               styles: Sequence[str | None] = (), fold: Collection[int] | None = None) -> None:
    """Prints a table. Numbers and single words are never broken, texts between words.

    Args:
      console: where to.
      columns: their names.
      rows: the cells of each row.
      left: indices of the columns that are aligned to the left; the others are numbers.
      styles: one for each row, or none at all.
      fold: indices of the columns that may be broken; default `left`.
    """
    texts = [[as_text(cell) for cell in row] for row in rows]
    folds = left if fold is None else fold
    least = [least_width(name, [row[i] for row in texts], i in folds) for i, name in enumerate(columns)]
    if sum(least) + len(least) + 1 > console.width:
        print_records(console, columns, texts, styles)
        return
    # A column of numbers keeps the width that they need; texts are broken.
    console.print(make_table(
        [(name, {"justify": "left" if i in left else "right", "overflow": "fold", "min_width": least[i]})
         for i, name in enumerate(columns)], texts, styles))


def make_table(columns: Iterable[tuple[str, dict[str, Any]]], rows: Iterable[Sequence["str | rich.text.Text"]],
               styles: Sequence[str | None] = (), **options: Any) -> "rich.table.Table":
    """Returns a table with a rule under its head.

    Args:
      columns: (name, options of rich's add_column) of each column.
      rows: the cells of each row; text is no markup.
      styles: one for each row, or none at all.
      **options: of rich.table.Table.
    """
    import rich.box
    import rich.table

    table = rich.table.Table(**{"box": rich.box.SIMPLE_HEAD, "padding": (0, 1, 0, 0), **options})
    for name, more in columns:
        table.add_column(as_text(name), **more)
    for i, row in enumerate(rows):
        table.add_row(*map(as_text, row), style=styles[i] if styles else None)
    return table


def print_records(console: "rich.console.Console", columns: Sequence[str], rows: Iterable[Sequence["rich.text.Text"]],
                  styles: Sequence[str | None] = ()) -> None:
    """Prints each row as a few lines: its first cell, and below it the others with their names; see `print_rows`."""
    import rich.table

    width = max((len(name) for name in columns[1:]), default=0)
    for i, (first, *others) in enumerate(rows):
        if first.plain.strip():
            console.print(first, style=styles[i] if styles and styles[i] else "bold", highlight=False)
        grid = rich.table.Table.grid(padding=(0, INDENT, 0, 0))
        grid.add_column(width=INDENT - 1)
        grid.add_column(no_wrap=width < console.width // 2)
        grid.add_column(overflow="fold")
        for name, cell in zip(columns[1:], others, strict=True):
            if cell.plain.strip():
                grid.add_row("", name, cell)
        console.print(grid, highlight=False)
    console.print()


def as_text(cell: "str | rich.text.Text") -> "rich.text.Text":
    """Returns a cell as rich.text.Text: brackets are no markup, and control characters are replaced."""
    import rich.text
    if isinstance(cell, rich.text.Text):
        return cell
    return rich.text.Text("\n".join(map(printable, cell.split("\n"))))


def least_width(name: str, cells: Iterable["rich.text.Text"], folds: bool) -> int:
    """Returns the least width of a column, whose name may be broken between words, in columns of the terminal.

    Args:
      name: its head.
      cells: its cells.
      folds: whether these may be broken, down to LEAST.
    """
    import rich.cells
    inside = max((rich.cells.cell_len(line) for cell in cells for line in cell.plain.split("\n")), default=0)
    head = max((rich.cells.cell_len(word) for word in name.split()), default=0)
    return max(head, min(inside, LEAST) if folds else inside)
