"""A benchmark as rows of text, which CSV, Markdown and page share."""
import csv
import functools
import io
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from pipeline.benchmark.derived import batch_of, is_halved, is_measured, median_speedup
from pipeline.benchmark.grid import KEY, replicas_words
from pipeline.quantities import NONE, counted, number

SCALARS = ("status", "error", "fitted_batch_size", "emulated", "note", "examples_per_second",
           "examples_per_second_per_replica", "synthetic_examples_per_second", "input_wait_share",
           "speedup_over_float32", "weak_scaling_efficiency", "strong_scaling_efficiency", "ideal_speedup",
           "ceiling_share", "trace_seconds", "compile_seconds", "first_step_seconds", "gradient_bytes",
           "reduced_bytes", "flops_per_example")
Columns = dict[str, Callable[[Mapping[str, Any]], str]]
ALONE = "ms a step alone p50 / p90 / p99"
ALONE_NOTE = ("A step alone is a call of one step, with the overhead of a call: its percentiles show how much step "
              "times vary. Examples/s is measured over calls of many steps, as in training.")
SHARING = {"replicas": "Replicas are logical devices that", "workers": "Workers are processes of this machine that"}
NESTED = {"step_ms": ("p50", "p90", "p99"), "split_ms": ("forward", "backward", "reduction", "update", "rest"),
          "peak_memory_mib": ("host", "device"), "statistics_reductions": ("count", "bytes"),
          "slowest_worker": ("rank", "examples_per_second")}


def percent(share: float | None) -> str:
    """Returns a share as percent, with a decimal where it is below ten."""
    return NONE if share is None else f"{share:.1%}" if abs(share) < 0.0995 else f"{share:.0%}"


def times(ratio: float | None) -> str:
    """Returns a ratio as "1.83x"."""
    if ratio is None:
        return NONE
    return f"{ratio:.2f}x" if 0.1 <= ratio < 10 else f"{number(ratio, 2 if ratio < 0.1 else 3)}x"


def spread(cell: Mapping[str, Any]) -> str:
    """Returns the median examples/s and the range of the repeats: "810 (790 to 822)"."""
    low, high = cell.get("spread") or (None, None)
    middle = number(cell.get("examples_per_second"))
    return middle if low is None else f"{middle} ({number(low)} to {number(high)})"


def step_milliseconds(cell: Mapping[str, Any]) -> float | None:
    """Returns the ms of a step at the measured examples/s, or None."""
    return cell["examples_per_second"] and 1e3 * batch_of(cell) / cell["examples_per_second"]


def milliseconds(cell: Mapping[str, Any]) -> str:
    """Returns the time of a call of one step as "p50 / p90 / p99"; see ALONE_NOTE."""
    steps = cell.get("step_ms") or {}
    return " / ".join(number(steps.get(name)) for name in NESTED["step_ms"]) if steps else NONE


def scaling(cell: Mapping[str, Any]) -> str:
    """Returns weak and strong scaling efficiency as "98% / 91%"."""
    both = (cell.get("weak_scaling_efficiency"), cell.get("strong_scaling_efficiency"))
    return NONE if both == (None, None) else " / ".join(map(percent, both))


def memory(cell: Mapping[str, Any]) -> str:
    """Returns peak memory of host and device in MiB as "812 / 4,096", of the host alone without a device."""
    peak = cell.get("peak_memory_mib") or {}
    known = [peak[name] for name in NESTED["peak_memory_mib"] if peak.get(name) is not None]
    return " / ".join(f"{value:,.0f}" for value in known) or NONE


def batch(cell: Mapping[str, Any]) -> str:
    """Returns the batch size, with the requested one where that did not fit."""
    if is_halved(cell):
        return f"{batch_of(cell):,} (of {cell['batch_size']:,})"
    return f"{cell['batch_size']:,}"


def status(cell: Mapping[str, Any]) -> str:
    """Returns the remark on a cell: "", "halved", "emulated", "failed", "does not fit"."""
    if not is_measured(cell):
        return "does not fit" if cell.get("status") == "does_not_fit" else "failed"
    return ", ".join(word for word, holds in (("halved", is_halved(cell)), ("emulated", cell.get("emulated"))) if holds)


def split_milliseconds(part: str, cell: Mapping[str, Any]) -> str:
    """Returns the ms of one part of a step: of its forward or backward pass, its reduction, its update, the rest."""
    return number((cell.get("split_ms") or {}).get(part))


COLUMNS: Columns = {
    "model": lambda cell: str(cell["model"]), "image": lambda cell: str(cell["image_size"]),
    "precision": lambda cell: str(cell["precision"]), "workers": lambda cell: str(cell["workers"]),
    "replicas": lambda cell: str(cell["replicas"]), "batch": batch,
    "XLA": lambda cell: str(cell["xla"]), "examples/s (spread)": spread, ALONE: milliseconds,
    "over float32": lambda cell: times(cell.get("speedup_over_float32")), "scaling weak / strong": scaling,
    "of ceiling": lambda cell: percent(cell.get("ceiling_share")),
    "input wait": lambda cell: percent(cell.get("input_wait_share")), "peak MiB": memory, "remark": status}
LEFT = ("model", "image", "precision", "XLA", "remark")
# Columns of the second table on the page.
MORE: Columns = {
    "slowest worker, examples/s": lambda cell: slowest_worker(cell),
    f"slowest worker, {ALONE}": lambda cell: slowest_step(cell),
    "examples/s a replica": lambda cell: number(cell.get("examples_per_second_per_replica")),
    "examples/s synthetic": lambda cell: number(cell.get("synthetic_examples_per_second")),
    **{f"{name} ms": functools.partial(split_milliseconds, name) for name in NESTED["split_ms"]},
    "tracing s": lambda cell: number(cell.get("trace_seconds")),
    "compiling s": lambda cell: number(cell.get("compile_seconds")),
    "first step s": lambda cell: number(cell.get("first_step_seconds")),
    "gradient MB": lambda cell: number(cell.get("gradient_bytes") and cell["gradient_bytes"] / 1e6),
    "reduced MB": lambda cell: number(cell.get("reduced_bytes") and cell["reduced_bytes"] / 1e6),
    "GFLOP an example": lambda cell: number(cell.get("flops_per_example") and cell["flops_per_example"] / 1e9)}


def columns(cells: Sequence[Mapping[str, Any]]) -> Columns:
    """Returns the COLUMNS for these cells: workers only where there are several."""
    return {name: text for name, text in COLUMNS.items() if name != "workers" or has_workers(cells)}


def more(cells: Sequence[Mapping[str, Any]]) -> Columns:
    """Returns the columns of MORE for these cells."""
    return {name: text for name, text in MORE.items() if "worker" not in name or has_workers(cells)}


def has_workers(cells: Iterable[Mapping[str, Any]]) -> bool:
    """Returns whether any cell has several workers."""
    return any(cell["workers"] > 1 for cell in cells)


def slowest_worker(cell: Mapping[str, Any]) -> str:
    """Returns which worker was the slowest and its examples/s by its own clock: "1: 402"."""
    found = cell.get("slowest_worker")
    return NONE if not found else f"{found['rank']}: {number(found['examples_per_second'])}"


def slowest_step(cell: Mapping[str, Any]) -> str:
    """Returns the time of a step by the clock of the slowest worker, see `milliseconds`."""
    return milliseconds(cell.get("slowest_worker") or {})


def replicas_text(cell: Mapping[str, Any]) -> str:
    """Returns "1 replica", "4 replicas" or "2 workers of 4 replicas"."""
    return replicas_words(cell["workers"], cell["replicas"])


WORDS: Columns = {"model": lambda cell: str(cell["model"]), "image_size": lambda cell: str(cell["image_size"]),
         "precision": lambda cell: str(cell["precision"]),
         "workers": lambda cell: counted(cell["workers"], "worker"),
         "replicas": lambda cell: replicas_words(1, cell["replicas"]),
         "batch_size": lambda cell: f"batch {batch(cell)}", "xla": lambda cell: f"XLA {cell['xla']}"}


def varying(cells: Sequence[Mapping[str, Any]]) -> list[str]:
    """Returns the parts of the key that vary over the cells."""
    return [name for name in KEY if len({cell[name] for cell in cells}) > 1]


def label(cell: Mapping[str, Any], names: Iterable[str] = KEY) -> str:
    """Returns the named parts of a cell's key in words, its model where none is named; one worker is left out."""
    names = [name for name in KEY if name in (names or ("model",))]
    if cell["workers"] == 1 and len(names) > 1:
        names = [name for name in names if name != "workers"]
    return ", ".join(WORDS[name](cell) for name in names)


def flat(cell: Mapping[str, Any]) -> dict[str, Any]:
    """Returns a cell as {column: value} without nesting: one row of the CSV file."""
    row = {name: cell.get(name) for name in (*KEY, *SCALARS)}
    low, high = cell.get("spread") or (None, None)
    row.update(spread_low=low, spread_high=high)
    for name, parts in NESTED.items():
        row.update({f"{name}_{part}": (cell.get(name) or {}).get(part) for part in parts})
    row["repeats"] = " ".join(map(repr, cell.get("repeats") or []))
    return row


def csv_text(cells: Iterable[Mapping[str, Any]]) -> str:
    """Returns the cells as CSV with a header; unknown values are empty."""
    text = io.StringIO()
    names = list(flat(dict.fromkeys(KEY)))
    writer = csv.DictWriter(text, names, lineterminator="\n")
    writer.writeheader()
    writer.writerows(map(flat, cells))
    return text.getvalue()


def problems(report: Mapping[str, Any]) -> list[str]:
    """Returns a line for each cell that failed or was measured with a smaller batch, and for an interruption."""
    lines = []
    if report.get("complete") is False:
        lines.append("This benchmark was interrupted: the same command resumes it.")
    for cell in report["cells"]:
        if not is_measured(cell):
            error = " ".join(str(cell.get("error") or "no reason recorded").split())
            lines.append(f"{label(cell)}: {status(cell)}: {error}")
        elif is_halved(cell):
            lines.append(f"{label(cell, [n for n in KEY if n != 'batch_size'])}: a batch of {cell['batch_size']:,} "
                         f"does not fit into memory; measured with {batch_of(cell):,}, found by halving")
    return lines


def remarks(report: Mapping[str, Any]) -> list[str]:
    """Returns the caveats of the measurements: emulated precisions, replicas that share cores."""
    cells, lines = report["cells"], []
    for precision in dict.fromkeys(cell["precision"] for cell in cells if cell.get("emulated")):
        ratio = median_speedup([cell for cell in cells if cell.get("emulated")], precision)
        if ratio is None:
            effect = "its speed does not predict that of hardware that has it (no float32 cell to compare with)"
        elif ratio < 1:
            effect = f"slower: {number(1 / ratio)} times as long as float32 (median)"
        else:
            effect = f"{times(ratio)} the speed of float32 here (median)"
        lines.append(f"{precision} is emulated on this hardware and {effect}." if ratio and ratio < 1
                     else f"{precision} is emulated on this hardware: {effect}.")
    lines += dict.fromkeys(line for cell in cells for line in str(cell.get("note") or "").splitlines())
    for name, what in SHARING.items():
        if any(cell[name] > 1 and cell.get("ideal_speedup") == 1 for cell in cells):
            lines.append(f"{what} share the same cores: the ideal is 1x the speed of one {name.removesuffix('s')}, not "
                         "N times, and efficiency is the ratio of examples/s.")
    if has_workers(cells):
        lines.append("Measurements of several workers are the chief's; those of the worker that was slowest by its own "
                     "clock are listed separately. All workers wait for each other in every step.")
    return lines


def machine_facts(report: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Returns [(name, text)] of machine, versions, ceilings, flags and command; unknown ones are left out."""
    machine = report.get("machine") or {}
    cores, gib = machine.get("cores"), machine.get("memory_gib")
    names = [str(gpu.get("name", gpu) if isinstance(gpu, dict) else gpu) for gpu in machine.get("gpus") or []]
    count = f", {counted(cores, 'core')}" if cores else ""
    gpus = [f"{names.count(name)} x {name}" if names.count(name) > 1 else name for name in dict.fromkeys(names)]
    ceilings = "; ".join(f"{name} {number(c['matmul_gflops'])} {c.get('unit', 'GFLOP/s')}"
                         for name, c in (report.get("ceilings") or {}).items() if c and c.get("matmul_gflops"))
    flags = " ".join(f"--{name}={','.join(map(str, v)) if isinstance(v, (list, tuple)) else v}"
                     for name, v in (report.get("flags") or {}).items())
    facts = [("CPU", f"{machine.get('cpu', 'unknown')}{count}"
                     f"{f', {number(gib)} GiB' if gib else ''}"),
             ("GPUs", ", ".join(gpus) or "none"), ("System", machine.get("system")),
             ("CPU features", ", ".join(machine.get("features") or [])), ("Largest matrix product", ceilings),
             ("Versions", ", ".join(f"{k} {v}" for k, v in (report.get("versions") or {}).items())),
             ("Settings", flags), ("Command", report.get("command")), ("Measured", report.get("created"))]
    return [(name, str(text)) for name, text in facts if text]
