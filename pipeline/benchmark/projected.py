"""The projection to more GPUs as texts and plots for the page and the Markdown file."""
from collections.abc import Mapping
from typing import Any

from markupsafe import Markup

from pipeline.benchmark import plots, tables
from pipeline.benchmark.projection import FARTHEST, GOOD

HEADS = ("GPUs", "machines", "ring: network ms", "efficiency", "hierarchical: network ms", "efficiency",
         "its examples/s")


def shown(projected: Mapping[str, Any] | None) -> dict[str, Any] | None:
    """Returns what the templates show of a result of projection.project, or None without one."""
    if not projected:
        return None
    links = [f"{link['name']}: {tables.number(link['gigabytes_per_second'])} GB/s, "
             f"{tables.number(link['microseconds'])} µs a message ({link['source']})."
             for cluster in projected["clusters"] for link in cluster["links"]]
    return {"cell": tables.label(projected["cell"]), "step": tables.number(projected["step_ms"]), "heads": HEADS,
            "links": links, "bounds": bounds(projected), "assumptions": projected["assumptions"],
            "clusters": {cluster["name"]: _rows(cluster) for cluster in projected["clusters"]}}


def projection_plots(projected: Mapping[str, Any] | None) -> list[tuple[str, Markup]]:
    """Returns (title, <svg> element) of each plot of a result of projection.project; none without one."""
    return [plots.projection(projected), plots.projection_by_step(projected)] if projected else []


def bounds(projected: Mapping[str, Any]) -> list[str]:
    """Returns a line for each cluster and reduction on where the network bounds the step."""
    lines = []
    for cluster in projected["clusters"]:
        for name, found in cluster["reductions"].items():
            first, last = found["network_bound_from"], found["points"][-1]
            lines.append(f"{cluster['name']}, {name}: " + (
                f"the network bounds the step from {first:,} GPUs on" if first else
                f"the network does not bound the step up to {FARTHEST:,} GPUs")
                + f"; {last['efficiency']:.1%} at {projected['most']:,}, where {GOOD:.0%} needs a step of at least "
                f"{tables.number(found['step_ms_for_90_percent'])} ms{_of_statistics(last)}.")
    return lines


def _of_statistics(point):
    """Returns the share of the network's time for batch statistics in words, "" where there are none."""
    if not point["statistics_ms"]:
        return ""
    share = point["statistics_ms"] / (point["statistics_ms"] + point["gradients_ms"])
    return f"; {share:.0%} of the network's time there is for batch statistics"


def _rows(cluster):
    """Returns a row for each number of GPUs."""
    ring, hierarchical = (cluster["reductions"][name]["points"] for name in ("ring", "hierarchical"))
    return [[f"{one['replicas']:,}", f"{one['machines']:,}", *(
        text for point in (one, other)
        for text in (tables.number(point["gradients_ms"] + point["statistics_ms"]), f"{point['efficiency']:.1%}")),
        tables.number(other["examples_per_second"])] for one, other in zip(ring, hierarchical, strict=True)]
