"""The most expensive operations of the traces of steps, and the cost of each.

Operations overlap on the threads of a CPU and on the streams of a GPU, and are nested (a call contains what it calls).
So that nothing is counted twice, an operation counts without the nested ones, and a moment at which n threads or
streams work is divided into n equal parts. The shares of a step's time, including idle time, then add up to one.
"""
import collections
from collections.abc import Sequence
from typing import Any

import numpy as np

from pipeline.monitoring.trace_operations import Operations

MOST_EXPENSIVE = 10
PS_PER_MS = 1e9
LONGEST_KIND, LONGEST_NAME = 26, 38
EXPLANATION = """\
% step: of the steps' time; where n {lines} work at once each has an n-th of it, so this adds up to 100%.
% ops and ms/step: of the time of all operations, added up over {lines}; calls: per step.
An operation counts without those nested in it; idle: no operation runs."""


class OperationsTable:
    """Adds up traces of steps."""

    def __init__(self) -> None:
        self._share: collections.Counter[str] = collections.Counter()  # {kind: ps}, as are the next two.
        self._busy: collections.Counter[str] = collections.Counter()
        self._calls: collections.Counter[str] = collections.Counter()
        self._names: dict[str, collections.Counter[str]] = collections.defaultdict(collections.Counter)
        self._duration = self._idle = 0.0
        self.devices: set[str] = set()

    def add(self, devices: Sequence[Operations]) -> None:
        """Adds the operations of every device of one trace; shares are means over the devices."""
        for found in devices:
            self.devices.add(found.device)
            share, busy, idle = costs(found)
            self._duration += found.duration / len(devices)
            self._idle += idle / len(devices)
            inside = found.end > found.start
            for counter, values in ((self._share, share / len(devices)), (self._busy, busy), (self._calls, inside)):
                totals = np.bincount(found.kind, values, len(found.kinds))
                counter.update(dict(zip(found.kinds, totals.tolist(), strict=True)))
            for kind, name, cost in zip(found.kind.tolist(), found.name.tolist(), busy.tolist(), strict=True):
                self._names[found.kinds[kind]][found.names[name]] += cost

    def summary(self, steps: int, waited: float) -> dict[str, Any]:
        """Summarizes the traces.

        Args:
          steps: their number, > 0.
          waited: seconds of them without input.

        Returns:
          {"ms_per_step", "input_wait_share", "idle_share", "devices": [str], "operations": [{"operation", "example":
          its most expensive place in the model, "step_share", "operations_share", "ms_per_step", "calls_per_step"}], by
          decreasing cost}; shares are in [0, 1].
        """
        duration, busy = max(self._duration, 1.0), max(sum(self._busy.values()), 1.0)
        rows = [{"operation": kind, "example": self._names[kind].most_common(1)[0][0], "step_share": share / duration,
                 "operations_share": self._busy[kind] / busy, "ms_per_step": self._busy[kind] / PS_PER_MS / steps,
                 "calls_per_step": self._calls[kind] / steps}
                for kind, share in self._share.most_common() if self._calls[kind]]
        return {"ms_per_step": self._duration / PS_PER_MS / steps,
                "input_wait_share": min(1.0, waited * 1000 * PS_PER_MS / duration), "idle_share": self._idle / duration,
                "devices": sorted(self.devices), "operations": rows}


def costs(found: Operations) -> tuple[np.ndarray, np.ndarray, float]:
    """Computes the cost of each operation of a device.

    Returns:
      (share [n] float64, its part of the steps' time, ps; busy [n] float64, its own time, ps; idle, ps). Share and idle
      add up to the duration.
    """
    outer = (found.parent < 0) & ~found.background
    times = np.unique(np.concatenate([[0.0, found.duration], found.start, found.end]))
    working = at_work(times, found.start[outer], found.end[outer])
    behind = at_work(times, found.start[found.background], found.end[found.background]) * (working == 0)
    share = np.where(found.background, *(received(found, times, counts) for counts in (behind, working)))
    busy = np.where(found.background, share, found.end - found.start)
    inner = found.parent >= 0
    contained = [np.bincount(found.parent[inner], values[inner], len(busy)) for values in (share, busy)]
    idle = np.diff(times)[(working == 0) & (behind == 0)].sum()
    return share - contained[0], busy - contained[1], float(idle)


def at_work(times: np.ndarray, start: np.ndarray, end: np.ndarray) -> np.ndarray:
    """Returns the number of spans [start, end) that cover each of the intervals between times, float64."""
    changes = sum(sign * np.bincount(np.searchsorted(times, at), minlength=len(times))
                  for sign, at in ((1.0, start), (-1.0, end)))
    return np.cumsum(changes)[:-1]


def received(found: Operations, times: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """Returns each operation's part, [n], of the intervals between times, which `counts` operations share equally."""
    parts = np.where(counts > 0, np.diff(times) / np.maximum(counts, 1), 0.0)
    until = np.concatenate([[0.0], np.cumsum(parts)])
    return np.interp(found.end, times, until) - np.interp(found.start, times, until)


def render(summary: dict[str, Any], title: str) -> str:
    """Returns a summary as text: a title, a table of the most expensive operations, and an explanation."""
    rows, rest = summary["operations"][:MOST_EXPENSIVE], summary["operations"][MOST_EXPENSIVE:]
    lines = [f"{title}: {summary['ms_per_step']:.2f} ms a step on {', '.join(summary['devices']) or 'no device'} "
             f"(slower than without the profiler), {summary['input_wait_share']:.1%} of it waiting for input",
             f"{'% step':>7} {'% ops':>7} {'ms/step':>9} {'calls':>7}  {'operation':{LONGEST_KIND}}  most of it in"]
    lines += [_line([row], row["operation"], row["example"]) for row in rows]
    if rest:
        lines.append(_line(rest, f"{len(rest)} other kinds", ""))
    lines.append(f"{summary['idle_share']:7.1%}{'':28}idle")
    of_gpu = any(device.startswith("GPU") for device in summary["devices"])
    return "\n".join(lines + [EXPLANATION.format(lines="streams" if of_gpu else "threads")])


def _line(rows: Sequence[dict[str, Any]], operation: str, example: str) -> str:
    """Returns a line of the table with the sums of some operations."""
    step, busy, milliseconds, calls = (sum(row[key] for row in rows) for key in (
        "step_share", "operations_share", "ms_per_step", "calls_per_step"))
    return (f"{step:7.1%} {busy:7.1%} {milliseconds:9.3f} {calls:7.1f}  "
            f"{shortened(operation, LONGEST_KIND):{LONGEST_KIND}}  {shortened(example, LONGEST_NAME)}").rstrip()


def shortened(name: str, longest: int) -> str:
    """Returns a path of at most `longest` characters; its beginning, the layer, is kept."""
    if len(name) <= longest:
        return name
    kept = name[:longest - 3]
    return (kept[:kept.rindex("/") + 1] if "/" in kept else kept) + "..."
