"""Tables of the terminal: columns where the window has room for them, else a few lines a row."""
import shutil

from pipeline.terminal import printable

LEAST = 12  # Columns of a text that may be broken.
INDENT = 2


def open_console(file, width=None):
    """Returns the rich.console.Console of an open text file.

    Args:
      file: standard output, for example.
      width: columns where it is no terminal; there nothing is coloured then.
    """
    import rich.console

    console = rich.console.Console(file=file)
    if not console.is_terminal and width:
        return rich.console.Console(file=file, width=width, no_color=True)
    if console.is_dumb_terminal:  # Rich takes every one of these for 80 columns wide.
        width, height = shutil.get_terminal_size()
        return rich.console.Console(file=file, width=width, height=height)
    return console


def print_rows(console, columns, rows, left=(0,), styles=(), fold=None):
    """Prints a table. Numbers and single words are never broken, texts between words.

    Args:
      console: rich.console.Console.
      columns: names, text each.
      rows: lists of cells, text or rich.text.Text.
      left: positions of the columns that begin at the left; the others are numbers.
      styles: one a row, or none at all.
      fold: positions of the columns that may be broken; default `left`.
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
        # What may be broken is where it has to be; a column of numbers keeps the room that they need.
        table.add_column(rich.text.Text(name), justify="left" if i in left else "right", overflow="fold",
                         min_width=least[i])
    for i, row in enumerate(rows):
        table.add_row(*row, style=styles[i] if styles else None)
    console.print(table)


def print_records(console, columns, rows, styles=()):
    """Prints each row as a few lines: its first cell, and below it the others with their names.

    The arguments are as for `print_rows`, cells of rich.text.Text.
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


def as_text(cell):
    """Returns a cell as rich.text.Text: brackets in a name are no markup, and nothing moves the cursor."""
    import rich.text
    if isinstance(cell, rich.text.Text):
        return cell
    return rich.text.Text("\n".join(map(printable, cell.split("\n"))))


def least_width(name, cells, folds):
    """Returns the columns that a column needs.

    Args:
      name: its head, which may be broken between words.
      cells: rich.text.Text.
      folds: whether they may be broken, to LEAST columns and no more.
    """
    import rich.cells
    lines = [line for cell in cells for line in cell.plain.split("\n")]
    inside = max(map(rich.cells.cell_len, lines), default=0)
    head = max((rich.cells.cell_len(word) for word in name.split()), default=0)
    return max(head, min(inside, LEAST) if folds else inside)
