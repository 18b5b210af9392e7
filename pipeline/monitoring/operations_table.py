"""What a step spends its time on: the most expensive operations of a trace, and what each of them costs.

Operations overlap on the threads of a CPU and on the streams of a GPU, and contain each other (a call contains what it
calls). So that nothing is counted twice, an operation counts without those it contains, and a moment at which n threads
or streams work is divided into n equal parts. Then the shares of a step's time, idle time with them, add up to one.
"""
import collections

import numpy as np

MOST_EXPENSIVE = 10
PS_PER_MS = 1e9
LONGEST_KIND, LONGEST_NAME = 26, 38
EXPLANATION = """\
% step: of the steps' time; where n {lines} work at once each has an n-th of it, so this adds up to 100%.
% ops and ms/step: of the time of all operations, added up over {lines}; calls: a step.
An operation counts without those it contains; idle: no operation runs."""


class OperationsTable:
    """Adds up traces of steps; each is given as the Operations of its devices."""

    def __init__(self):
        self._share, self._busy = collections.Counter(), collections.Counter()  # {kind: ps}
        self._calls, self._names = collections.Counter(), collections.defaultdict(collections.Counter)
        self._duration = self._idle = 0.0
        self.devices = set()

    def add(self, devices):
        """Adds the Operations of every device of one trace; shares are means over the devices."""
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

    def summary(self, steps, waited):
        """Describes what was added up.

        Args:
          steps: how many steps that was, > 0.
          waited: seconds of them without input.

        Returns:
          {"ms_per_step", "input_wait_share", "idle_share", "devices": [str], "operations": [{"operation", "example":
          where in the model it costs most, "step_share", "operations_share", "ms_per_step", "calls_per_step"}],
          by falling cost}; shares are from 0 to 1.
        """
        duration, busy = max(self._duration, 1.0), max(sum(self._busy.values()), 1.0)
        rows = [{"operation": kind, "example": self._names[kind].most_common(1)[0][0], "step_share": share / duration,
                 "operations_share": self._busy[kind] / busy, "ms_per_step": self._busy[kind] / PS_PER_MS / steps,
                 "calls_per_step": self._calls[kind] / steps}
                for kind, share in self._share.most_common() if self._calls[kind]]
        return {"ms_per_step": self._duration / PS_PER_MS / steps,
                "input_wait_share": min(1.0, waited * 1000 * PS_PER_MS / duration), "idle_share": self._idle / duration,
                "devices": sorted(self.devices), "operations": rows}


def costs(found):
    """Computes what each operation of a device costs.

    Args:
      found: Operations.

    Returns:
      (share [n] float64, its part of the steps' time, ps; busy [n] float64, its own time, ps; idle, float ps). Share
      and idle add up to the duration.
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


def at_work(times, start, end):
    """Counts how many of the spans [start, end) cover each of the intervals between times: [len(times) - 1] float64."""
    changes = sum(sign * np.bincount(np.searchsorted(times, at), minlength=len(times))
                  for sign, at in ((1.0, start), (-1.0, end)))
    return np.cumsum(changes)[:-1]


def received(found, times, counts):
    """Returns what each operation, [n], gets of the intervals between times, of which `counts` have equal parts."""
    parts = np.where(counts > 0, np.diff(times) / np.maximum(counts, 1), 0.0)
    until = np.concatenate([[0.0], np.cumsum(parts)])
    return np.interp(found.end, times, until) - np.interp(found.start, times, until)


def render(summary, title):
    """Returns a summary as text: a title, a table of the most expensive operations, and what its columns mean."""
    rows, rest = summary["operations"][:MOST_EXPENSIVE], summary["operations"][MOST_EXPENSIVE:]
    lines = [f"{title}: {summary['ms_per_step']:.2f} ms a step on {', '.join(summary['devices']) or 'no device'} "
             f"(slower than without the profiler), {summary['input_wait_share']:.1%} of it waiting for input",
             f"{'% step':>7} {'% ops':>7} {'ms/step':>9} {'calls':>7}  {'operation':{LONGEST_KIND}}  most of it in"]
    lines += [_line(row["step_share"], row["operations_share"], row["ms_per_step"], row["calls_per_step"],
                    row["operation"], row["example"]) for row in rows]
    if rest:
        total = [sum(row[key] for row in rest)
                 for key in ("step_share", "operations_share", "ms_per_step", "calls_per_step")]
        lines.append(_line(*total, f"{len(rest)} other kinds", ""))
    lines.append(f"{summary['idle_share']:7.1%}{'':28}idle")
    of_gpu = any(device.startswith("GPU") for device in summary["devices"])
    return "\n".join(lines + [EXPLANATION.format(lines="streams" if of_gpu else "threads")])


def _line(step_share, operations_share, milliseconds, calls, operation, example):
    return (f"{step_share:7.1%} {operations_share:7.1%} {milliseconds:9.3f} {calls:7.1f}  "
            f"{shortened(operation, LONGEST_KIND):{LONGEST_KIND}}  {shortened(example, LONGEST_NAME)}").rstrip()


def shortened(name, longest):
    """Returns a path that is not longer than a column: its beginning says in which layer."""
    if len(name) <= longest:
        return name
    kept = name[:longest - 3]
    return (kept[:kept.rindex("/") + 1] if "/" in kept else kept) + "..."
