"""The files a person reads of a benchmark: benchmark.html, benchmark.md, benchmark.csv."""
import html
import os
import pathlib
import re
import statistics

from pipeline.benchmark import plots, projected, tables
from pipeline.benchmark.derived import is_halved, is_measured, median_speedup
from pipeline.benchmark.grid import KEY
from pipeline.files import write_text
from pipeline.pages.markup import box, cards, definitions, fill, table, tag
from pipeline.quantities import counted

FILES = ("benchmark.csv", "benchmark.md", "benchmark.html")
SOFTWARE = ("mirrorline", "tensorflow", "keras")  # Versions on the first screen; all stand at the end.
FLAG = re.compile(r"--\w+(=[\w,]*\w)?")
LISTED = 8  # Problems that stand on the first screen; the rest unfold.


def write_all(report, folder):
    """Writes the three files; each is whole or not there.

    Args:
      report: what benchmark.json holds, after `derived.derive`.
      folder: an existing directory.

    Returns:
      The paths written.
    """
    paths = [os.path.join(folder, name) for name in FILES]
    texts = (tables.csv_text(report["cells"]), tables.markdown(report) + projected.markdown(report.get("projection")),
             page(report))
    for path, text in zip(paths, texts, strict=True):
        write_text(path, text)
    return paths


def page(report):
    """Returns benchmark.html: one file that loads nothing."""
    title = f"Benchmark: {', '.join(dict.fromkeys(str(cell['model']) for cell in report['cells'])) or 'no cells'}"
    cells = report["cells"]
    names = tables.varying(cells) or KEY
    more = {"cell": lambda cell: tables.label(cell, names), **tables.more(cells)}
    parts = [_head(report), box(tables.problems(report), "Not as asked for", "box bad", LISTED),
             box([*tables.remarks(report), tables.ALONE_NOTE], "To read the figures rightly", listed=LISTED),
             tag("div", "\n".join(_sections(report)), "sections"),
             _cells_table("Every cell", tables.columns(cells), cells),
             _cells_table("More of every cell", more, list(filter(is_measured, cells))), _machine(report)]
    return fill(pathlib.Path(__file__).with_name("page.html"), title=html.escape(title),
                body="\n".join(part for part in parts if part))


def _head(report):
    cells = report["cells"]
    facts = dict(tables.machine_facts(report))
    where = facts["CPU"] if facts["GPUs"] == "none" else f"{facts['GPUs']} ({facts['CPU']})"
    versions = report.get("versions") or {}
    software = ", ".join(f"{name} {versions[name]}" for name in SOFTWARE if name in versions)
    line = " · ".join(text for text in (where, software, str(report.get("created") or "")) if text)
    measured = sum(map(is_measured, cells))
    count = f"{measured} of {counted(len(cells), 'cell')} measured"
    ran = f"{count}: {_what_ran(cells)}" if cells else "No cells were run."
    return (f'<h1>How fast it trains</h1>\n<p>{html.escape(ran)}</p>\n<p class="soft">{html.escape(line)}</p>\n'
            + cards(headline(cells)))


def _what_ran(cells):
    """Returns the values of the sweep in words: "cnn 28x28x1; float32; 1 replica; batch 16, 32; XLA off"."""
    def values(name):
        return list(dict.fromkeys(cell[name] for cell in cells))

    models = ", ".join(dict.fromkeys(f"{cell['model']} {cell['image_size']}" for cell in cells))
    replicas, workers = values("replicas"), values("workers")
    return "; ".join([models, ", ".join(map(str, values("precision"))),
                      *([f"{', '.join(map(str, workers))} workers"] if workers != [1] else []),
                      f"{', '.join(map(str, replicas))} {'replica' if replicas == [1] else 'replicas'}",
                      f"batch {', '.join(f'{size:,}' for size in values('batch_size'))}",
                      f"XLA {', '.join(map(str, values('xla')))}"])


def headline(cells):
    """Returns [(name, figure, detail)] for the first screen; what was not measured is left out."""
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
        found.append(("nearest to the ceiling", tables.percent(top["ceiling_share"]),
                      f"of the matrix product's rate: {tables.label(top, names)}"))
    waits = [cell["input_wait_share"] for cell in measured if cell.get("input_wait_share") is not None]
    if waits:
        found.append(("waiting for input", tables.percent(statistics.median(waits)),
                      f"of the time, median; at most {tables.percent(max(waits))}"))
    return found


def _sections(report):
    """Returns the sections with plots; one without data says what would give it."""
    cells = [cell for cell in report["cells"] if is_measured(cell)]
    lines = plots.groups(cells, "model", "image_size", "xla")
    with_batches = [group for group in lines.values() if len({plots.batch_of(cell) for cell in group}) > 1]
    yield _section("Throughput against batch size", [plots.throughput(group, _title(group)) for group in with_batches],
                   "Medians; the bars reach from the slowest to the fastest repeat.",
                   "no two batch sizes were measured; --batch_sizes=16,32,64 draws it.")
    ratios = [cell for cell in cells if cell.get("speedup_over_float32")]
    yield _section("Speed-up by precision", _by_rows(ratios, plots.speedup),
                   "Examples/s over those of the same cell in float32; hatched where the precision is emulated.",
                   "no other precision was measured beside float32; --precisions=float32,mixed_bfloat16 draws "
                   "it.")
    hints = {"replicas": "--replica_counts=1,2", "workers": "--workers=1,2"}
    for over, flag in hints.items():
        scaled = [group for group in lines.values()
                  if any(plots.best_line(group, kind, over)[1] for kind in ("weak", "strong"))]
        yield _section(f"Scaling over {over}", [plots.scaling(group, _title(group), over) for group in scaled],
                       _scaling_words(cells, over), f"one {over.removesuffix('s')} and several were not measured; "
                       f"{flag} draws it (for weak scaling with --batch_sizes=32,64: N times as large).")
    split = [cell for cell in cells if plots.step_parts(cell)]
    yield _section("Where a step goes", _by_rows(split, plots.breakdown),
                   "Each bar is a whole step on real data; input wait is what real data take longer than one batch "
                   "that is there already.", "no cell has the split of its step.")
    known = [cell for cell in cells if any((cell.get("peak_memory_mib") or {}).values())]
    yield _section("Peak memory", _by_rows(known, plots.memory), "Of the whole process on the host, of the fullest "
                   "device beside it.", "no cell has its peak memory.")
    yield projected.section(report.get("projection"))


def _title(cells):
    first = cells[0]
    return f"{first['model']} {first['image_size']}, XLA {first['xla']}"


def _by_rows(cells, draw):
    """Returns pictures with a row a cell: one or more for each model and image size, none with too many rows."""
    pictures = []
    for (model, image), group in plots.groups(cells, "model", "image_size").items():
        names = [name for name in tables.varying(cells) if name not in ("model", "image_size")]
        count = -(-len(group) // plots.MOST_ROWS)
        size = -(-len(group) // count)
        for part in range(count):
            title = f"{model} {image}" + (f" ({part + 1} of {count})" if count > 1 else "")
            pictures.append(draw(group[part * size:(part + 1) * size], names or ["precision"], title))
    return pictures


def _scaling_words(cells, over):
    words = (f"Weak: the batch grows with the {over}; strong: the batch stays. Where several batches were measured, "
             "the one with the most points; the others are in the table.")
    if any(cell[over] > 1 and cell.get("ideal_speedup") == 1 for cell in cells):
        what = {"replicas": "logical devices on", "workers": "processes that share"}[over]
        words += f" The {over} here are {what} the same cores: the ideal is 1x, not N times."
    return words


def _section(title, pictures, words, missing):
    if not pictures:
        words = f"No plot: {FLAG.sub(_code, html.escape(missing))}"
        return tag("section", tag("h2", title) + tag("p", words, "soft"))
    figures = "".join(tag("figure", picture) for picture in pictures)
    inside = tag("h2", title) + tag("p", html.escape(words), "soft") + tag("div", figures, "plots")
    return tag("section", inside, "wide" if len(pictures) > 1 else "")


def _code(match):
    return tag("code", match[0])


def _cells_table(title, columns, cells):
    if not cells:
        return ""
    kinds = dict.fromkeys(tables.LEFT, "left") | {"cell": "left cell", "model": "left name", "remark": "left mark"}
    head = "".join(tag("th", name, "left" if name in kinds else "") for name in columns)
    rows = []
    for cell in cells:
        values = [tag("td", html.escape(text(cell)), kinds.get(name, "")) for name, text in columns.items()]
        rows.append(tag("tr", "".join(values), "" if is_measured(cell) and not is_halved(cell) else "bad"))
    return tag("h2", title) + table(head, rows)


def _machine(report):
    facts = [(name, tag("code", html.escape(text)) if name in ("Command", "Settings") else html.escape(text))
             for name, text in tables.machine_facts(report)]
    return tag("h2", "Machine, versions, command") + definitions(facts)
