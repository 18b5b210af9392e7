"""The sections about classes: their metrics, the most confused pairs, and the confusion matrix."""
from collections.abc import Mapping, Sequence
from typing import Any

COLUMNS = {"precision": "precision", "recall": "recall", "f1": "F1", "support": "support", "roc_auc": "ROC AUC",
           "average_precision": "average precision"}
MOST_NUMBERS = 20  # Classes of a matrix of numbers; a larger one is a heat map.
TALL = 20  # Rows from which on a table scrolls.
CELL, LETTER, LONGEST = 10, 4.9, 24  # Of the map: side of a cell, width of a letter, letters of a name.
LEVELS = 8


def classes(report: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the table of per-class metrics: its "columns", its "rows", and the start of its bars."""
    every = report["per_class"]
    many = len(every) > TALL
    known = [one["f1"] for one in every if one["f1"] is not None]
    return {"columns": COLUMNS, "many": many,
            "rows": sorted(every, key=lambda one: (one["f1"] is None, one["f1"])) if many else every,
            # A tenth lower, so that the weakest has a bar too.
            "floor": max(0, int(10 * min(known, default=0.0)) - 1) / 10}


def confusion(report: Mapping[str, Any]) -> dict[str, Any] | None:
    """Returns the confusion matrix: numbers for few classes, a heat map for many; None without a matrix."""
    matrix, names = report.get("confusion"), report["classes"]
    if not matrix:
        return None
    most = max((row[j] / max(1, sum(row)) for i, row in enumerate(matrix) for j in range(len(row)) if i != j),
               default=0.0)
    if len(names) > MOST_NUMBERS:
        return {"numbers": False, "most": most, **_heat_map(matrix, names, most)}
    return {"numbers": True, "most": most, "longest": max(map(len, names)),
            "rows": list(zip(names, matrix, strict=True)),
            "predicted": [(column[j], sum(column)) for j, column in enumerate(zip(*matrix, strict=True))]}


def rate(part: float, total: float) -> str:
    """Returns a share as text, "–" of nothing."""
    return "–" if not total else "100%" if part == total else f"{part / total:.1%}"


def _heat_map(matrix: Sequence[Sequence[int]], names: Sequence[str], most: float) -> dict[str, Any]:
    """Returns squares by their level of color, names at the edges, and the counts for the list and the script."""
    size = CELL * len(names)
    levels: dict[tuple[str, int], list[str]] = {}
    cells = [[i, j, count] for i, row in enumerate(matrix) for j, count in enumerate(row) if count]
    for i, j, count in cells:
        share = count / max(1, sum(matrix[i]))
        level = min(LEVELS, int((share if i == j else (share / most)**0.5) * LEVELS) + 1)
        levels.setdefault(("hit" if i == j else "miss", level), []).append(f"M{j * CELL} {i * CELL}h10v10h-10z")
    short = [name if len(name) <= LONGEST else f"{name[:LONGEST - 1]}…" for name in names]
    others = [sorted((-count, j) for j, count in enumerate(row) if count and j != i) for i, row in enumerate(matrix)]
    return {"size": size, "margin": round(8 + LETTER * max(map(len, short))), "short": short,
            "squares": [(kind, level / LEVELS, "".join(parts)) for (kind, level), parts in sorted(levels.items())],
            "lines": "".join(f"M0 {place}h{size}M{place} 0v{size}" for place in range(0, size + 1, 10 * CELL)),
            "rows": [(name, row[i], sum(row), [(names[j], -count) for count, j in others[i]])
                     for i, (name, row) in enumerate(zip(names, matrix, strict=True))],
            "data": {"names": names, "cells": cells}}
