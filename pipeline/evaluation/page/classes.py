"""The parts of the page about classes: their figures, which are taken for which, and the confusion matrix."""
import json

from pipeline.evaluation.page.curves import box_of
from pipeline.evaluation.tables import number
from pipeline.pages.markup import escape, table, tag

FIGURES = {"precision": "precision", "recall": "recall", "f1": "F1", "support": "support", "roc_auc": "ROC AUC",
           "average_precision": "average precision"}
MOST_NUMBERS = 20  # Classes of a matrix of numbers; a larger one is a map of colours.
TALL = 20  # Rows from which on a table scrolls.
CELL, LETTER, LONGEST = 10, 4.9, 24  # Of the map: side of a cell, width of a letter, letters of a name.
LEVELS = 8


def classes(report):
    """Returns the figures of every class with their averages, beside the pairs that are confused most."""
    return tag("div", tag("div", tag("h3", "Figures of every class") + _figures(report))
               + tag("div", tag("h3", "Most confused pairs") + _pairs(report)), "two")


def _figures(report):
    every = report["per_class"]
    many = len(every) > TALL
    if many:
        every = sorted(every, key=lambda one: (one["f1"] is None, one["f1"]))
    known = [one["f1"] for one in every if one["f1"] is not None]
    floor = max(0, int(10 * min(known, default=0.0)) - 1) / 10  # A tenth lower: the weakest has a bar too.
    head = tag("th", "class", scope="col") + "".join(tag("th", name, scope="col") for name in FIGURES.values())
    rows = [_figures_row(one["name"], one, floor) for one in every]
    foot = "".join(_figures_row(f"{kind} average", report["averages"][kind]) for kind in ("macro", "weighted"))
    order = "; the weakest class first" if many else ""
    words = "Precision: how much of what is taken for a class is of it. Recall: how much of a class is found. The " \
            f"bars begin at an F1 of {floor:g}{order}."
    box = table(head, rows, foot, "sortable", **box_of("Figures of every class"))
    return (box.replace('class="scroll"', 'class="scroll tall"', 1) if many else box) + tag("p", words, "soft")


def _figures_row(name, one, floor=None):
    cells = [tag("th", escape(name), scope="row")]
    for key in FIGURES:
        value = one[key]
        if key == "support":
            cells.append(tag("td", f"{value:,}"))
        elif key == "f1" and floor is not None and value is not None:
            share = (value - floor) / max(1e-9, 1 - floor)
            cells.append(tag("td", number(key, value), "bar", style=f"--p:{share:.0%}"))
        else:
            cells.append(tag("td", number(key, value)))
    return tag("tr", "".join(cells))


def _pairs(report):
    pairs = report["confused_pairs"]
    if not pairs:
        return tag("p", "No example is taken for another class.")
    head = (tag("th", "class", scope="col") + tag("th", "taken for", "left", scope="col")
            + tag("th", "times", scope="col") + tag("th", "of the class", scope="col"))
    rows = [tag("tr", tag("th", escape(one["true"]), scope="row") + tag("td", escape(one["predicted"]), "words")
                + tag("td", f"{one['count']:,}") + tag("td", f"{one['share']:.1%}")) for one in pairs]
    return table(head, rows, kind="sortable", **box_of("Most confused pairs"))


def confusion(report):
    """Returns the confusion matrix: numbers for few classes, a map and a list for many, "" where there is none."""
    matrix, names = report.get("confusion"), report["classes"]
    if not matrix:
        return ""
    wrong = [row[j] / max(1, sum(row)) for i, row in enumerate(matrix) for j in range(len(row)) if i != j]
    most = max(wrong, default=0.0)
    few = len(names) <= MOST_NUMBERS
    strong = "" if few else "-strong"
    scales = [_scale(f"hit{strong}", "found, 0 to 100% of a class")]
    if most:
        scales.append(_scale(f"miss{strong}", f"taken for another, 0 to {most:.1%} of a class"))
    return tag("p", "".join(scales), "soft") + (_numbers if few else _map)(matrix, names, most)


def _scale(kind, text):
    color = f"linear-gradient(to right, var(--panel), var(--{kind}))"
    return tag("span", tag("span", kind="scale", style=f"background:{color}") + escape(text) + " ")


def _numbers(matrix, names, most):
    upright = any(len(name) > 4 for name in names)
    kind = "upright" if upright else ""
    head = tag("th", "true ↓ predicted →", scope="col")
    head += "".join(tag("th", tag("span", escape(name)), kind, scope="col") for name in names)
    head += tag("th", tag("span", "recall"), f"{kind} rate".strip(), scope="col")
    rows = []
    for i, row in enumerate(matrix):
        total = sum(row)
        cells = "".join(_cell(count, total, i == j, most, f"{names[i]} taken for {names[j]}")
                        for j, count in enumerate(row))
        rows.append(tag("tr", tag("th", escape(names[i]), scope="row") + cells
                        + tag("td", _rate(row[i], total), "rate")))
    taken = [sum(column) for column in zip(*matrix, strict=True)]
    foot = "".join(tag("td", _rate(matrix[j][j], total)) for j, total in enumerate(taken))
    foot = tag("tr", tag("th", "precision", scope="row") + foot + tag("td"))
    return table(head, rows, foot, "matrix", **box_of("Confusion matrix"))


def _rate(part, total):
    return "–" if not total else "100%" if part == total else f"{part / total:.1%}"


def _cell(count, total, hit, most, what):
    if not count:
        return tag("td", "·", "none")
    share = count / total
    color = share if hit else (0.25 + 0.75 * share / most)
    title = f"{what}: {count:,} of {total:,}" if not hit else f"found: {count:,} of {total:,}"
    return tag("td", f"{count:,}", "hit" if hit else "miss", style=f"--p:{color:.0%}", title=title)


def _map(matrix, names, most):
    """Returns the matrix as squares of colour with names at its edges, and below it as a table that unfolds."""
    size = CELL * len(names)
    short = [name if len(name) <= LONGEST else f"{name[:LONGEST - 1]}…" for name in names]
    margin = round(8 + LETTER * max(map(len, short)))
    levels = {}
    for i, row in enumerate(matrix):
        total = max(1, sum(row))
        for j, count in enumerate(row):
            if count:
                share = count / total if i == j else (count / total / most)**0.5
                level = min(LEVELS, int(share * LEVELS) + 1)
                levels.setdefault(("hit" if i == j else "miss", level), []).append(f"M{j * CELL} {i * CELL}h10v10h-10z")
    lines = "".join(f"M0 {place}h{size}M{place} 0v{size}" for place in range(0, size + 1, 10 * CELL))
    inside = tag("rect", kind="ground", width=size, height=size) + "".join(
        tag("path", kind=kind, style=f"--p:{level / LEVELS:.0%}", d="".join(squares))
        for (kind, level), squares in sorted(levels.items())) + tag("path", kind="lines", d=lines)
    for place, name in enumerate(short):
        middle = place * CELL + 8
        inside += tag("text", escape(name), x=-4, y=middle, text_anchor="end")
        inside += tag("text", escape(name), transform=f"translate({middle} -4) rotate(-90)")
    width = size + margin + 4
    label = f"Confusion matrix of {len(names)} classes as a map; the list below it has the numbers"
    picture = f'<svg id="map" class="map" role="img" aria-label="{escape(label)}" ' \
              f'viewBox="{-margin} {-margin} {width} {width}" ' \
              f'style="width:min(100%, {2.4 * width:.0f}px);min-width:{width}px">{inside}</svg>'
    readout = '<p id="readout" class="screen" aria-live="polite" hidden>Point at a square: its numbers stand here.</p>'
    return (tag("p", "A row is a class, a column what it is taken for.", "soft") + readout
            + tag("div", picture, "scroll", **box_of("Confusion matrix")) + _list(matrix, names))


def _list(matrix, names):
    """Returns what every class is taken for as a table that unfolds."""
    rows = []
    for i, row in enumerate(matrix):
        others = sorted((-count, j) for j, count in enumerate(row) if count and j != i)
        said = ", ".join(f"{names[j]} {-count:,}" for count, j in others)
        rows.append(tag("tr", tag("th", escape(names[i]), scope="row") + tag("td", f"{row[i]:,} of {sum(row):,}")
                        + tag("td", escape(said) or "–", "words")))
    head = (tag("th", "class", scope="col") + tag("th", "found", scope="col")
            + tag("th", "taken for", "left", scope="col"))
    return tag("details", tag("summary", "What every class is taken for")
               + table(head, rows, **box_of("What every class is taken for")))


def map_data(report):
    """Returns the numbers that the map shows of the square pointed at, "" where no map is drawn."""
    matrix, names = report.get("confusion"), report["classes"]
    if not matrix or len(names) <= MOST_NUMBERS:
        return ""
    cells = [[i, j, count] for i, row in enumerate(matrix) for j, count in enumerate(row) if count]
    text = json.dumps({"names": names, "cells": cells}, separators=(",", ":"))
    text = text.replace("&", "\\u0026").replace("<", "\\u003c").replace(">", "\\u003e")  # It ends no script.
    return tag("script", text, id="map-data", type="application/json")
