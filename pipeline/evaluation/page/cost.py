"""The sections about the run: its time, its cost, and how to reproduce it."""
from collections import Counter
from collections.abc import Callable, Mapping
from typing import Any

from pipeline.quantities import counted

KINDS = {"steps": ("kept steps", "series-3"), "input": ("waiting for input", "series-2"),
         "lost": ("lost and repeated steps", "bad"), "compiling": ("compiling", "series-1"),
         "saving": ("saving", "series-4"), "evaluating": ("evaluating", "series-6"),
         "reporting": ("reporting", "series-5"), "profiling": ("profiling", "series-7"),
         "starting": ("starting", "series-8"), "other": ("other", "soft")}
MACHINE: dict[str, Callable] = {"cpu": str, "cores": lambda count: counted(count, "core"),
                                "memory_gib": "{} GiB of memory".format, "system": str}
_PREFIXES = ((1e18, "E"), (1e15, "P"), (1e12, "T"), (1e9, "G"), (1e6, "M"))


def duration(seconds: float) -> str:
    """Returns seconds as "31 s", "12 min 5 s" or "3 h 20 min"; one decimal below ten."""
    if seconds < 60:
        return f"{seconds:.1f} s" if seconds < 9.95 else f"{seconds:.0f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest} s" if minutes < 60 else f"{minutes // 60:,} h {minutes % 60} min"


def times(goodput: Mapping | None) -> list[dict[str, Any]]:
    """Returns [{"share", "color", "text"}] of where the time went, the largest first; [] where it is unknown."""
    seconds = {kind: spent for kind, spent in ((goodput or {}).get("seconds") or {}).items() if spent and spent > 0}
    found = []
    for kind, spent in sorted(seconds.items(), key=lambda item: -item[1]):
        (name, color), share = KINDS.get(kind, (kind, "soft")), spent / sum(seconds.values())
        found.append({"share": share, "color": color, "text": f"{name} {share:.1%}, {duration(spent)}"})
    return found


def costs(spent: Mapping) -> dict[str, str]:
    """Returns {what: text} of the cost of the run, without unknown ones."""
    flops = spent.get("training_flops")
    scale, prefix = next(((s, p) for s, p in _PREFIXES if flops and flops >= s), (1, ""))
    known: dict[str, tuple[str, Callable]] = {
        "wall time": ("wall_seconds", duration), "core hours": ("core_hours", _hours),
        "GPU hours": ("gpu_hours", _hours), "examples seen": ("examples_seen", "{:,}".format),
        "training operations": ("training_flops", lambda flops: f"{flops / scale:.3g} {prefix}FLOP")}
    return {name: text(spent[key]) for name, (key, text) in known.items() if spent.get(key) is not None}


def _hours(hours: float) -> str:
    return f"{hours:,.3g}" if hours < 1000 else f"{hours:,.0f}"


def facts(report: Mapping[str, Any]) -> dict[str, str]:
    """Returns {what: text} about the run: command, weights, versions, machine."""
    run = report["run"]
    return {"command": report["command"], "directory": run["workdir"],
            "checkpoint": f"{run['checkpoint']}, step {run['step']:,}", "weights": run["weights"],
            "SHA-256 of the weights": text_of(run.get("weights_sha256")), "seed": text_of(run.get("seed")),
            "selected on": f"the {run.get('selected_on')} split",
            "trained with": ", ".join(_named(run.get("trained_with") or {})) or "–",
            "evaluated with": ", ".join(_named(run.get("versions") or {})) or "–",
            "evaluated on": ", ".join(_machine(run.get("machine") or {})) or "–"}


def options(run: Mapping) -> dict[str, str]:
    """Returns {option: text} of the configuration, those changed from their defaults first."""
    changed = run.get("changed") or {}
    return {name: text_of(value) for name, value in {**changed, **{**(run.get("config") or {}), **changed}}.items()}


def _named(known: Mapping) -> list[str]:
    return [f"{key.replace('_', ' ')} {text_of(value)}" for key, value in known.items()]


def _machine(known: Mapping) -> list[str]:
    """Returns facts about a machine as texts; of what it lacks only a GPU is named."""
    found = []
    for name, value in known.items():
        if name == "gpus":
            counts = Counter(value).items()
            found += [f"{count} × {gpu}" if count > 1 else gpu for gpu, count in counts] or ["no GPU"]
        elif value not in ([], {}, "", None):
            found += [MACHINE[name](value)] if name in MACHINE else _named({name: value})
    return found


def text_of(value: object) -> str:
    """Returns a value of a configuration or a machine as text for people, "–" for none."""
    if value is None or value in ([], {}, ""):
        return "–"
    if isinstance(value, dict):
        return ", ".join(f"{key} {text_of(one)}" for key, one in value.items())
    if isinstance(value, (list, tuple)):
        return ", ".join(map(text_of, value))
    return str(value).lower() if isinstance(value, bool) else str(value)
