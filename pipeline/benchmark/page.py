"""Writes benchmark.html, benchmark.md and benchmark.csv."""
import os
import re
import statistics
from collections.abc import Mapping, Sequence
from typing import Any

from markupsafe import Markup, escape

from pipeline.benchmark import plots, projected, tables
from pipeline.benchmark.derived import is_halved, is_measured, median_speedup
from pipeline.benchmark.grid import KEY
from pipeline.files import write_text
from pipeline.quantities import counted
from pipeline.templates import render

FILES = ("benchmark.csv", "benchmark.md", "benchmark.html")
SOFTWARE = ("mirrorline", "tensorflow", "keras")  # Versions on the first screen; the page ends with all of them.
FLAG = re.compile(r"--\w+(=[\w,]*\w)?")
LISTED = 8  # Problems on the first screen; the others are folded.
# Columns that are aligned to the left, with further classes of their cells.
LEFT = dict.fromkeys(tables.LEFT, "") | {"cell": " cell", "model": " name", "remark": " mark"}


def write_all(report: Mapping[str, Any], folder: str) -> list[str]:
    """Writes the three files, each atomically.

    Args:
      report: contents of benchmark.json, after `derived.derive`.
      folder: an existing directory.

    Returns:
      The paths written.
    """
    paths = [os.path.join(folder, name) for name in FILES]
    for path, text in zip(paths, (tables.csv_text(report["cells"]), markdown(report), page(report)), strict=True):
        write_text(path, text)
    return paths


def markdown(report: Mapping[str, Any]) -> str:
    """Returns benchmark.md: problems, the table, caveats, and where it was measured."""
    return render(__package__, "benchmark.md", **_shared(report), columns=tables.columns(report["cells"]))


def page(report: Mapping[str, Any]) -> str:
    """Returns benchmark.html, one file that loads nothing."""
    cells, measured = report["cells"], list(filter(is_measured, report["cells"]))
    names = tables.varying(cells) or KEY
    details = {"cell": lambda cell: tables.label(cell, names), **tables.more(cells)}
    count = f"{len(measured)} of {counted(len(cells), 'cell')} measured"
    return render(
        __package__, "benchmark.html", **_shared(report), listed=LISTED, headline=headline(cells),
        projected_plots=projected.projection_plots(report.get("projection")),
        title=f"Benchmark: {', '.join(dict.fromkeys(str(cell['model']) for cell in cells)) or 'no cells'}",
        ran=f"{count}: {_what_ran(cells)}" if cells else "No cells were run.", where=_where(report),
        sections=list(_sections(measured)), is_bad=lambda cell: not is_measured(cell) or is_halved(cell),
        tables=[("All cells", tables.columns(cells), cells), ("Details of all cells", details, measured)])


def _shared(report):
    """Returns the values that both templates use."""
    return {"problems": tables.problems(report), "caveats": tables.remarks(report), "alone": tables.ALONE_NOTE,
            "cells": report["cells"], "facts": dict(tables.machine_facts(report)), "left": LEFT,
            "projection": projected.shown(report.get("projection"))}


def _where(report):
    facts, versions = dict(tables.machine_facts(report)), report.get("versions") or {}
    where = facts["CPU"] if facts["GPUs"] == "none" else f"{facts['GPUs']} ({facts['CPU']})"
    software = ", ".join(f"{name} {versions[name]}" for name in SOFTWARE if name in versions)
    return [text for text in (where, software, str(report.get("created") or "")) if text]


def _what_ran(cells):
    """Returns the values of the axes in words: "cnn 28x28x1; float32; 1 replica; batch 16, 32; XLA off"."""
    def values(name):
        return list(dict.fromkeys(cell[name] for cell in cells))

    models = ", ".join(dict.fromkeys(f"{cell['model']} {cell['image_size']}" for cell in cells))
    replicas, workers = values("replicas"), values("workers")
    return "; ".join([models, ", ".join(map(str, values("precision"))),
                      *([f"{', '.join(map(str, workers))} workers"] if workers != [1] else []),
                      f"{', '.join(map(str, replicas))} {'replica' if replicas == [1] else 'replicas'}",
                      f"batch {', '.join(f'{size:,}' for size in values('batch_size'))}",
                      f"XLA {', '.join(map(str, values('xla')))}"])


def headline(cells: Sequence[Mapping[str, Any]]) -> list[tuple[str, str, str]]:
    """Returns [(name, figure, detail)] of the measured figures for the first screen."""
    measured = [cell for cell in cells if is_measured(cell)]
    if not measured:
        return []
    names = tables.varying(cells) or ["model", "precision", "batch_size"]
    best = max(measured, key=lambda cell: cell["examples_per_second"])
    found = [("fastest", f"{tables.number(best['examples_per_second'])}", f"examples/s: {tables.label(best, names)}")]
    for precision in dict.fromkeys(cell["precision"] for cell in measured):
        if ratio := median_speedup(measured, precision):
            count = sum(bool(c.get("speedup_over_float32")) for c in measured if c["precision"] == precision)
            word = ", emulated" * any(c.get("emulated") for c in measured if c["precision"] == precision)
            of = f"median of {count} cells" if count > 1 else "one cell"
            found.append((f"{precision} over float32", tables.times(ratio), of + word))
    for kind in ("weak", "strong"):
        known = [cell for cell in measured if cell.get(f"{kind}_scaling_efficiency") is not None]
        if known:
            most = max(known, key=lambda cell: (cell["workers"], cell["replicas"], cell["examples_per_second"]))
            ideal = ", which share the same cores" if most.get("ideal_speedup") == 1 else ""
            found.append((f"{kind} scaling efficiency", tables.percent(most[f"{kind}_scaling_efficiency"]),
                          f"with {tables.replicas_text(most)}{ideal}: "
                          f"{tables.label(most, [name for name in names if name not in ('replicas', 'workers')])}"))
    near = [cell for cell in measured if cell.get("ceiling_share") is not None]
    if near:
        top = max(near, key=lambda cell: cell["ceiling_share"])
        found.append(("highest utilization", tables.percent(top["ceiling_share"]),
                      f"of the largest matrix product's throughput: {tables.label(top, names)}"))
    waits = [cell["input_wait_share"] for cell in measured if cell.get("input_wait_share") is not None]
    if waits:
        found.append(("input wait", tables.percent(statistics.median(waits)),
                      f"of the time, median; at most {tables.percent(max(waits))}"))
    return found


def _sections(cells):
    """Yields the sections with plots of the measured cells; one without data names the flags that would give it."""
    lines = plots.groups(cells, "model", "image_size", "xla")
    with_batches = [group for group in lines.values() if len({plots.batch_of(cell) for cell in group}) > 1]
    yield _section("Throughput against batch size", [plots.throughput(group, _title(group)) for group in with_batches],
                   "Medians; the bars reach from the slowest to the fastest repeat.",
                   "it needs two batch sizes, such as --batch_sizes=16,32,64.")
    ratios = [cell for cell in cells if cell.get("speedup_over_float32")]
    yield _section("Speed-up by precision", _by_rows(ratios, plots.speedup),
                   "Examples/s over those of the same cell in float32; hatched where the precision is emulated.",
                   "it needs float32 and another precision, such as --precisions=float32,mixed_bfloat16.")
    hints = {"replicas": "--replica_counts=1,2", "workers": "--workers=1,2"}
    for over, flag in hints.items():
        scaled = [group for group in lines.values()
                  if any(plots.best_line(group, kind, over)[1] for kind in ("weak", "strong"))]
        yield _section(f"Scaling over {over}", [plots.scaling(group, _title(group), over) for group in scaled],
                       _scaling_words(cells, over), f"it needs one {over.removesuffix('s')} and several, such as "
                       f"{flag} (for weak scaling with --batch_sizes=32,64: N times as large).")
    split = [cell for cell in cells if plots.step_parts(cell)]
    yield _section("Step time breakdown", _by_rows(split, plots.breakdown),
                   "Each bar is one step on real data; input wait is how much longer it takes than a step on a batch "
                   "that is in memory already.", "no cell has the breakdown of its step.")
    known = [cell for cell in cells if any((cell.get("peak_memory_mib") or {}).values())]
    yield _section("Peak memory", _by_rows(known, plots.memory), "Host: the whole process; device: the one with the "
                   "highest peak.", "no cell has its peak memory.")


def _title(cells):
    first = cells[0]
    return f"{first['model']} {first['image_size']}, XLA {first['xla']}"


def _by_rows(cells, draw):
    """Returns plots with a row for each cell: one or more for each model and image size, of MOST_ROWS at most."""
    drawn = []
    for (model, image), group in plots.groups(cells, "model", "image_size").items():
        names = [name for name in tables.varying(cells) if name not in ("model", "image_size")]
        count = -(-len(group) // plots.MOST_ROWS)
        size = -(-len(group) // count)
        for part in range(count):
            title = f"{model} {image}" + (f" ({part + 1} of {count})" if count > 1 else "")
            drawn.append(draw(group[part * size:(part + 1) * size], names or ["precision"], title))
    return drawn


def _scaling_words(cells, over):
    words = (f"Weak: the batch grows with the {over}; strong: the batch is fixed. Of several batches, the one with the "
             "most points is drawn; the others are in the table.")
    if any(cell[over] > 1 and cell.get("ideal_speedup") == 1 for cell in cells):
        what = {"replicas": "logical devices on", "workers": "processes that share"}[over]
        words += f" The {over} here are {what} the same cores: the ideal is 1x, not N times."
    return words


def _section(title, drawn, words, missing):
    """Returns the values of a section; flags in `missing` become code."""
    return {"title": title, "plots": drawn, "words": words,
            "missing": Markup(FLAG.sub(r"<code>\g<0></code>", str(escape(missing))))}
