"""The projection to more GPUs, as a section of the page and of the Markdown file."""
import html
import json
import pathlib
import string

from pipeline.benchmark import plots, tables
from pipeline.benchmark.projection import FARTHEST, GOOD
from pipeline.pages.markup import items, table, tag

TITLE = "Projection to more GPUs"
HEADS = ("GPUs", "machines", "ring: network ms", "efficiency", "hierarchical: network ms", "efficiency",
         "its examples/s")
# What can be changed in the page: its name, what it is, and the least it can be.
FIELDS = (("step_ms", "computing a step (ms)", 0.000001), ("reduced_mb", "reduced once a step (MB)", 0.000001),
          ("count", "reductions of batch statistics a step", 0), ("kilobytes", "their bytes together (kB)", 0),
          ("per_machine", "GPUs a machine", 1), ("inside_bandwidth", "inside: GB/s a GPU", 0.000001),
          ("inside_latency", "inside: µs a message", 0), ("between_bandwidth", "between: GB/s a machine", 0.000001),
          ("between_latency", "between: µs a message", 0), ("reached", "of the bandwidth reached (%)", 0.1),
          ("most", "GPUs up to", 2))
WHOLE = ("count", "per_machine", "most")


def section(projected):
    """Returns the section of the page; `projected` is what projection.project returned, or None."""
    title = tag("h2", TITLE)
    if not projected:
        words = ("Not there: <code>--project=1024</code> adds the efficiency to expect at up to 1,024 GPUs, from a "
                 "measured cell.")
        return tag("section", title + tag("p", words, "soft"))
    cell = html.escape(tables.label(projected["cell"]))
    words = (f"<b>A projection, not a measurement:</b> what a cost model expects of {cell}, at "
             f"{tables.number(projected['step_ms'])} ms to compute a step. Solid: hierarchical reduction; dashed: one "
             "ring. Where the network takes longer than computing, below 50%, it bounds the step.")
    links = [f"{link['name']}: {tables.number(link['gigabytes_per_second'])} GB/s, "
             f"{tables.number(link['microseconds'])} µs a message ({link['source']})."
             for cluster in projected["clusters"] for link in cluster["links"]]
    assumed = tag("div", tag("b", "Assumptions") + items(projected["assumptions"]))
    follows = tag("div", tag("b", "It follows") + items(bounds(projected)) + tag("b", "Links") + items(links))
    figures = tag("figure", plots.projection(projected)) + tag("figure", plots.projection_by_step(projected))
    by_cluster = "".join(tag("div", tag("b", html.escape(cluster["name"])) + _table(cluster))
                         for cluster in projected["clusters"])
    inside = title + tag("p", words) + tag("div", figures, "plots") + tag("div", follows + assumed, "plots")
    return tag("section", inside + tag("div", by_cluster, "plots") + _calculator(projected), "wide")


def bounds(projected):
    """Returns a line for each cluster and reduction: from how many GPUs on the network bounds the step, and why."""
    lines = []
    for cluster in projected["clusters"]:
        for name, found in cluster["reductions"].items():
            first, last = found["network_bound_from"], found["points"][-1]
            lines.append(f"{cluster['name']}, {name}: " + (
                f"the network bounds the step from {first:,} GPUs on" if first else
                f"the network does not bound the step up to {FARTHEST:,} GPUs")
                + f"; {last['efficiency']:.1%} at {projected['most']:,}, where {GOOD:.0%} takes a step of at least "
                f"{tables.number(found['step_ms_for_90_percent'])} ms{_of_statistics(last)}.")
    return lines


def _of_statistics(point):
    """Returns which share of the network's time the reductions of batch statistics take, "" where there are none."""
    if not point["statistics_ms"]:
        return ""
    share = point["statistics_ms"] / (point["statistics_ms"] + point["gradients_ms"])
    return f"; {share:.0%} of the network's time there is for batch statistics"


def markdown(projected):
    """Returns the section of the Markdown file, "" without a projection."""
    if not projected:
        return ""
    lines = ["", f"### {TITLE}", "", f"A projection, not a measurement, from {tables.label(projected['cell'])} at "
             f"{tables.number(projected['step_ms'])} ms to compute a step.", ""]
    lines += [f"- {line}" for line in bounds(projected)]
    for cluster in projected["clusters"]:
        lines += ["", f"{cluster['name']}:", "", "| " + " | ".join(HEADS) + " |", "|" + "---:|" * len(HEADS)]
        lines += ["| " + " | ".join(row) + " |" for row in _rows(cluster)]
    return "\n".join([*lines, "", *(f"- {line}" for line in projected["assumptions"]), ""])


def _rows(cluster):
    """Returns the texts of a row for each number of GPUs."""
    ring, hierarchical = (cluster["reductions"][name]["points"] for name in ("ring", "hierarchical"))
    return [[f"{one['replicas']:,}", f"{one['machines']:,}", *(
        text for point in (one, other)
        for text in (tables.number(point["gradients_ms"] + point["statistics_ms"]), f"{point['efficiency']:.1%}")),
        tables.number(other["examples_per_second"])] for one, other in zip(ring, hierarchical, strict=True)]


def _table(cluster):
    rows = [tag("tr", "".join(tag("td", html.escape(text)) for text in row)) for row in _rows(cluster)]
    return table(_heads(), rows)


def _heads():
    return "".join(tag("th", html.escape(head)) for head in HEADS)


def _calculator(projected):
    """Returns input fields for every assumption, which the page shows where it may run its script."""
    statistics = projected["statistics_reductions"] or {"count": 0, "bytes": 0}
    values = {"step_ms": projected["step_ms"], "reduced_mb": projected["reduced_bytes"] / 1e6,
              "count": statistics["count"], "kilobytes": statistics["bytes"] / 1e3,
              "reached": 100 * projected["reached"], "most": projected["most"]}
    known = [{"name": cluster["name"], "per_machine": cluster["per_machine"],
              **{f"{where}_{what}": link[key] for where, link in zip(("inside", "between"), cluster["links"],
                                                                      strict=True)
                 for what, key in (("bandwidth", "gigabytes_per_second"), ("latency", "microseconds"))}}
             for cluster in projected["clusters"]]
    values.update(known[0])
    fields = [tag("label", html.escape(text) + f'<input type="number" name="{name}" value="{values[name]:.6g}" '
                  f'min="{least:g}" step="{1 if name in WHOLE else "any"}" required>') for name, text, least in FIELDS]
    choices = "".join(tag("option", html.escape(cluster["name"]), value=place) for place, cluster in enumerate(known))
    data = json.dumps({"known": known, "batch": projected["batch_a_replica"], "farthest": FARTHEST})
    frame = pathlib.Path(__file__).with_name("calculator.html").read_text(encoding="utf-8")
    return string.Template(frame).substitute(fields="\n".join(fields), choices=choices, heads=_heads(),
                                             data=data.replace("&", "\\u0026").replace("<", "\\u003c"))
