"""The parts of the page about the run: where its time went, what it has cost, how to make it again."""
from collections import Counter

from pipeline.evaluation.page.curves import box_of
from pipeline.pages.markup import definitions, escape, table, tag
from pipeline.quantities import counted

KINDS = {"steps": ("steps that counted", "series-3"), "input": ("waiting for input", "series-2"),
         "lost": ("steps lost and repeated", "bad"), "compiling": ("compiling", "series-1"),
         "saving": ("saving", "series-4"), "evaluating": ("evaluating", "series-6"),
         "reporting": ("reporting", "series-5"), "profiling": ("profiling", "series-7"),
         "starting": ("starting", "series-8"), "other": ("other", "soft")}
MACHINE = {"cpu": ("", ""), "cores": ("", " cores"), "memory_gib": ("", " GiB of memory"), "system": ("", "")}
_PREFIXES = ((1e18, "E"), (1e15, "P"), (1e12, "T"), (1e9, "G"), (1e6, "M"))


def duration(seconds):
    """Returns seconds as "31 s", "12 min 5 s" or "3 h 20 min"; one decimal below ten."""
    if seconds < 60:
        return f"{seconds:.1f} s" if seconds < 9.95 else f"{seconds:.0f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest} s" if minutes < 60 else f"{minutes // 60:,} h {minutes % 60} min"


def cost(report):
    """Returns where the time of the run went as one bar, and what it has cost."""
    return _goodput(report.get("goodput")) + _costs(report.get("cost") or {})


def _goodput(goodput):
    seconds = {kind: s for kind, s in ((goodput or {}).get("seconds") or {}).items() if s and s > 0}
    total = sum(seconds.values())
    if not total:
        return tag("p", "Where the time went is not known: the run has not ended yet.", "soft")
    bar, entries, said = "", "", []
    for kind, spent in sorted(seconds.items(), key=lambda item: -item[1]):
        name, color = KINDS.get(kind, (kind, "soft"))
        bar += tag("span", style=f"--p:{spent / total:.4f};--c:var(--{color})")
        text = f"{name} {spent / total:.1%}, {duration(spent)}"
        said.append(text)
        entries += tag("li", tag("span", kind="patch", style=f"--c:var(--{color})") + escape(text))
    words = f"{goodput['share']:.1%} of the time went into steps that counted (goodput)"
    launches, repeated = goodput.get("launches", 1), goodput.get("steps_repeated", 0)
    words += f", over {counted(launches, 'launch', 'launches')}"
    words += f"; {counted(repeated, 'step was', 'steps were')} computed again" * bool(repeated)
    words += f"; {counted(goodput.get('rollbacks') or 0, 'rollback')}" * bool(goodput.get("rollbacks"))
    return (tag("p", escape(words) + ".") + tag("div", bar, "stack", role="img", aria_label="Where the time went: "
                                                + "; ".join(said)) + tag("ul", entries, "legend"))


def _costs(spent):
    facts = []
    if spent.get("wall_seconds") is not None:
        facts.append(("wall time", duration(spent["wall_seconds"])))
    for key, name in (("core_hours", "core hours"), ("gpu_hours", "GPU hours")):
        if spent.get(key) is not None:
            facts.append((name, f"{spent[key]:,.3g}" if spent[key] < 1000 else f"{spent[key]:,.0f}"))
    seen = spent.get("examples_seen")
    if seen is not None:
        facts.append(("examples seen", f"{seen:,}"))
    if spent.get("training_flops"):
        flops = spent["training_flops"]
        scale, prefix = next(((s, p) for s, p in _PREFIXES if flops >= s), (1, ""))
        facts.append(("operations of training", f"{flops / scale:.3g} {prefix}FLOP"))
    return tag("div", definitions([(name, escape(text)) for name, text in facts]), "facts") if facts else ""


def run(report):
    """Returns what the run is made of: command, weights, options, versions, machine."""
    of = report["run"]
    facts = [("command", tag("code", escape(report["command"]))), ("directory", tag("code", escape(of["workdir"]))),
             ("checkpoint", escape(f"{of['checkpoint']}, step {of['step']:,}")), ("weights", escape(of["weights"])),
             ("SHA-256 of the weights", tag("code", escape(said(of.get("weights_sha256"))))),
             ("seed", escape(said(of.get("seed")))), ("selected on", escape(f"the {of.get('selected_on')} split"))]
    for name, title in (("trained_with", "trained with"), ("versions", "judged with")):
        facts.append((title, escape(", ".join(_named(of.get(name) or {})) or "–")))
    facts.append(("judged on", escape(", ".join(_machine(of.get("machine") or {})) or "–")))
    return tag("div", definitions(facts), "facts") + _options(of.get("config") or {}, of.get("changed") or {})


def _named(known):
    return [f"{key.replace('_', ' ')} {said(value)}" for key, value in known.items()]


def _machine(known):
    """Returns what is known of a machine in words, without what it has nothing of but a GPU."""
    found = []
    for name, value in known.items():
        if name == "gpus":
            counts = Counter(value).items()
            found += [f"{count} × {gpu}" if count > 1 else gpu for gpu, count in counts] or ["no GPU"]
        elif name in MACHINE:
            found.append(said(value).join(MACHINE[name]))
        elif value not in ([], {}, "", None):
            found += _named({name: value})
    return found


def _options(config, changed):
    every = {**changed, **{name: value for name, value in config.items() if name not in changed}}
    if not every:
        return ""
    rows = []
    for name, value in every.items():
        kind = "best" if name in changed else ""
        rows.append(tag("tr", tag("th", tag("code", escape(name), kind), scope="row")
                        + tag("td", tag("code", escape(said(value)), kind))
                        + tag("td", "changed" if kind else "")))
    head = "".join(tag("th", name, scope="col") for name in ("option", "value", ""))
    title = f"Configuration: {len(changed)} of {len(every)} options are not their defaults"
    return tag("details", tag("summary", escape(title)) + table(head, rows, kind="options", **box_of("Configuration")))


def said(value):
    """Returns a value of a configuration or a machine as a person would write it, "–" for none."""
    if value is None or value in ([], {}, ""):
        return "–"
    if isinstance(value, dict):
        return ", ".join(f"{key} {said(one)}" for key, one in value.items())
    if isinstance(value, (list, tuple)):
        return ", ".join(map(said, value))
    return str(value).lower() if isinstance(value, bool) else str(value)
