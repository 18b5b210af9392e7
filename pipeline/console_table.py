"""Tables for the terminal: columns where the window is wide enough, otherwise a few lines for each row."""
import shutil
from collections.abc import Collection, Sequence
from typing import Any

from pipeline.terminal import printable

# Rich is imported inside the functions, since commands import this module before their flags are checked.
LEAST = 12  # Columns of a text that may be wrapped.
INDENT = 2


def open_console(file: Any, width: int | None = None) -> Any:
    """Returns the rich.console.Console of an open text file; with `width`, and without colours, off a terminal."""
    import rich.console

    console = rich.console.Console(file=file)
    if not console.is_terminal and width:
        return rich.console.Console(file=file, width=width, no_color=True)
    if console.is_dumb_terminal:  # Rich assumes 80 columns for all of these.
        width, height = shutil.get_terminal_size()
        return rich.console.Console(file=file, width=width, height=height)
    return console


def print_rows(console: Any, columns: Sequence[str], rows: Sequence[Sequence[Any]], left: Collection[int] = (0,),
               styles: Sequence[str | None] = (), fold: Collection[int] | None = None) -> None:
    """Prints a table. Numbers and single words are never wrapped, texts between words.

    Args:
      console: rich.console.Console.
      columns: their titles.
      rows: lists of cells, str or rich.text.Text.
      left: positions of the left-aligned columns; the others are numbers.
      styles: one for each row, or none at all.
      fold: positions of the columns that may be wrapped; default `left`.
    """
    import rich.box
    import rich.table
    import rich.text

    rows = [[as_text(cell) for cell in row] for row in rows]
    fold = set(left if fold is None else fold)
    least = [least_width(name, [row[i] for row in rows], i in fold) for i, name in enumerate(columns)]
    if sum(least) + len(least) + 1 > console.width:
        print_records(console, columns, rows, styles)
        return
    table = rich.table.Table(box=rich.box.SIMPLE_HEAD, padding=(0, 1, 0, 0))
    for i, name in enumerate(columns):
        # Only what may be wrapped shrinks; a column of numbers keeps its width.
        table.add_column(rich.text.Text(name), justify="left" if i in left else "right", overflow="fold",
                         min_width=least[i])
    for i, row in enumerate(rows):
        table.add_row(*row, style=styles[i] if styles else None)
    console.print(table)


def print_records(console: Any, columns: Sequence[str], rows: Sequence[Sequence[Any]],
                  styles: Sequence[str | None] = ()) -> None:
    """Prints each row as a few lines: its first cell, and below it the others with their titles.

    Arguments as of `print_rows`, with cells of rich.text.Text.
    """
    import rich.table

    width = max((len(name) for name in columns[1:]), default=0)
    for i, (first, *others) in enumerate(rows):
        style = styles[i] if styles else None
        if first.plain.strip():
            console.print(first, style=style or "bold", highlight=False)
        grid = rich.table.Table.grid(padding=(0, INDENT, 0, 0))
        grid.add_column(width=INDENT - 1)
        grid.add_column(no_wrap=width < console.width // 2)
        grid.add_column(overflow="fold")
        for name, cell in zip(columns[1:], others, strict=True):
            if cell.plain.strip():
                grid.add_row("", name, cell)
        console.print(grid, highlight=False)
    console.print()


def as_text(cell: Any) -> Any:
    """Returns a cell as rich.text.Text: brackets are not markup, and nothing moves the cursor."""
    import rich.text
    if isinstance(cell, rich.text.Text):
        return cell
    return rich.text.Text("\n".join(map(printable, cell.split("\n"))))


def least_width(name: str, cells: Sequence[Any], folds: bool) -> int:
    """Returns the width that a column needs: its title may be wrapped between words, cells down to LEAST columns."""
    import rich.cells
    lines = [line for cell in cells for line in cell.plain.split("\n")]
    inside = max(map(rich.cells.cell_len, lines), default=0)
    head = max((rich.cells.cell_len(word) for word in name.split()), default=0)
    return max(head, min(inside, LEAST) if folds else inside)
