"""Compares Mirrorline with its peers: python -m benchmarks.peers [--data_dir=FOLDER] [--rounds=15] [--only=TEXT].

The same model, data, batch and precision through Mirrorline, Keras `fit` in two ways, a custom loop and PyTorch in two
ways, each in a process of its own, in turns; and the ceiling of the machine. Writes docs/measured/peers.json and
docs/measured/peers.md part by part, and resumes there.
"""
import argparse
import dataclasses
import datetime
import hashlib
import importlib.metadata
import importlib.util
import json
import os
import pathlib
import platform
import shutil
import signal
import sys
import tempfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from benchmarks import comparisons, table
from benchmarks.ceiling import PRODUCT_SIZES
from benchmarks.processes import REPOSITORY, Process, Turns, in_order
from benchmarks.ratios import PAIRS, median_ratio
from benchmarks.workloads import ARCHITECTURES, CEILING, PEERS, TORCH_PEERS, WORKLOADS, Settings, Workload, prepare_data
from pipeline.config import ExperimentConfig, options, value_type
from pipeline.errors import RunFailure, UsageError, unknown_name
from pipeline.processor import cpu_model

QUICK_ROUNDS = 3
PACKAGES = ("tensorflow", "keras", "numpy", "torch")


def measure_workload(name: str, folder: pathlib.Path, settings: Settings, report_round: comparisons.Report) -> dict[str,
                     Any]:
    """Measures one workload through every peer.

    Args:
      name: key of WORKLOADS.
      folder: pathlib.Path for data and weights.
      settings: Settings.
      report_round: takes (round, {peer: [examples/s]}) as it goes.

    Returns:
      What docs/measured/peers.json holds of it.

    Raises:
      RunFailure: a peer does not do the same work, or ended.
    """
    workload, weights = {**WORKLOADS, **ARCHITECTURES}[name], folder / f"{name}.npz"
    order = {"workload": dataclasses.asdict(workload), "data": str(prepare_data(workload, folder, settings.data_dir)),
             "weights": str(weights), "options": settings.options}
    with Started(order) as started:
        for peer in workload.peers(settings.peers):
            started.start(peer, {"export": str(weights)} if peer == "mirrorline" else {})
        check_same_work(started.losses, workload.loss_tolerance)
        ceiling = {"operations": None, "convolutions": None}
        if workload.ceiling_target:
            ceiling = started.start(CEILING, {})
        product = largest_product(started.processes) if workload.ceiling_target else None
        return measure_rounds(workload, started, ceiling, product, settings, report_round)


class Started:
    """The processes of one workload's peers, started one after another; a context manager.

    Attributes:
      processes: {peer: Process}.
      losses: {peer: losses of the first steps}.
      first_step: {peer: seconds from the start of the process to the end of the first step}.
    """

    def __init__(self, order):
        self.order, self.processes, self.losses, self.first_step = order, {}, {}, {}

    def __enter__(self):
        return self

    def __exit__(self, *error):
        for process in self.processes.values():
            process.__exit__(*error)

    def start(self, peer: str, more: Mapping[str, Any]) -> dict[str, Any]:
        """Starts a peer and waits for its first steps; returns what it said."""
        process = self.processes[peer] = Process(peer, {**self.order, "peer": peer, **more})
        answer = process.answer()
        if "losses" in answer:
            self.losses[peer] = answer["losses"]
            self.first_step[peer] = answer["ended"] - process.born
        return answer


def check_same_work(losses: Mapping[str, Sequence[float]], tolerance: float) -> None:
    """Raises RunFailure naming the peer whose loss, from the same weights on the same batches, is another.

    Args:
      losses: {peer: losses of the first steps}, Mirrorline's among them.
      tolerance: in nats.
    """
    expected = losses["mirrorline"][-1]
    for peer, found in losses.items():
        if not abs(found[-1] - expected) <= tolerance:
            raise RunFailure(f"{peer} does not do the same work: its loss at step {len(found)} is {found[-1]:.4f}, "
                             f"Mirrorline's {expected:.4f}")


def largest_product(processes: Mapping[str, Process]) -> tuple[str, int]:
    """Returns (peer that multiplies fastest, size): TensorFlow or PyTorch, whichever makes more of the machine."""
    names = [CEILING, *(peer for peer in TORCH_PEERS[:1] if peer in processes)]
    rates = {(name, size): processes[name].ask("product", size=size)["gflops"]
             for name in names for size in PRODUCT_SIZES}
    return max(rates, key=rates.get)


def measure_rounds(workload: Workload, started: Started, ceiling: Mapping[str, Any], product: tuple[str, int] | None,
                   settings: Settings, report_round: comparisons.Report) -> dict[str, Any]:
    """Lets the peers take turns; returns what docs/measured/peers.json holds of the workload."""
    trained = [peer for peer in ORDER if peer in workload.peers(settings.peers)]
    steps, memory = {}, {}
    for peer in trained:
        process = started.processes[peer]
        steps[peer] = comparisons.block_steps(process, workload.block_seconds, workload.warm_steps)
        memory[peer] = process.ask("memory")["mebibytes"]
    speeds, evaluations = ({peer: [] for peer in trained} for _ in range(2))
    evaluating = [peer for peer in ("mirrorline", "keras_fit") if peer in trained]
    for peer in evaluating:
        started.processes[peer].ask("evaluate")
    rates, alone, turns = [], [], Turns(started.processes)
    for number in range(settings.rounds):
        for peer in in_order(trained, number):
            speeds[peer].append(comparisons.speed(turns.ask(peer, "train", steps=steps[peer]), workload))
        for peer in in_order(evaluating, number):
            evaluations[peer].append(workload.evaluated / turns.ask(peer, "evaluate")["seconds"])
        if product:
            rates.append(turns.ask(product[0], "product", size=product[1])["gflops"])
            alone.append(turns.ask(CEILING, "convolutions", repeats=2)["seconds"])
        report_round(number, speeds)
    return {"examples/s": speeds, "evaluation examples/s": {peer: evaluations[peer] for peer in evaluating},
            "block_steps": steps, "losses": started.losses, "first_step_seconds": started.first_step,
            "peak_MiB": memory, "idle_share": turns.idle_share, "operations": ceiling["operations"],
            "product": {"by": product and product[0], "size": product and product[1], "GFLOP/s": rates},
            "convolution_seconds": alone, "ratios": ratios_of(workload, speeds, evaluations, rates, ceiling)}


# Neighbours in this order are compared most closely.
ORDER = ("custom_loop", "keras_fit_many", "keras_fit", "mirrorline", "torch_compiled", "torch_eager")


def ratios_of(workload: Workload, speeds: Mapping[str, list[float]], evaluations: Mapping[str, list[float]],
              rates: list[float], ceiling: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Returns [{"what", "ratio", "bound", "at_least"}] of a workload: see measure_rounds for the arguments."""
    own, bounds = speeds["mirrorline"], {target.peer: target.at_least for target in workload.targets}
    ratios = [{"what": f"training over {peer}", "ratio": median_ratio(own, speeds[peer]), "bound": bounds.get(peer),
               "at_least": True} for peer in PEERS if peer in speeds and peer != "mirrorline"]
    if rates:
        reached = [speed * ceiling["operations"] / 1e9 for speed in own]
        ratios.append({"what": "training over the matrix product", "ratio": median_ratio(reached, rates),
                       "bound": workload.ceiling_target, "at_least": True})
    if "keras_fit" in speeds:
        ratio = median_ratio(evaluations["mirrorline"], evaluations["keras_fit"])
        ratios.append({"what": "evaluation over keras_fit", "ratio": ratio, "bound": None, "at_least": True})
        ahead = [evaluation / training for evaluation, training in zip(
            (a / b for a, b in zip(evaluations["mirrorline"], evaluations["keras_fit"], strict=True)),
            (a / b for a, b in zip(own, speeds["keras_fit"], strict=True)), strict=True)]
        ratios.append({"what": "lead over keras_fit in evaluation over that in training",
                       "ratio": median_ratio(ahead, [1.0] * len(ahead)), "bound": 1.0, "at_least": True})
    return ratios


def check_peers(names: Sequence[str]) -> tuple[str, ...]:
    """Returns the peers asked for, Mirrorline among them, in the order of PEERS.

    Raises:
      UsageError: an unknown one, or PyTorch or the compiler that it needs is not there.
    """
    for name in names:
        if name not in PEERS:
            raise unknown_name("peer", name, PEERS)
    chosen = tuple(peer for peer in PEERS if peer in names or peer == "mirrorline")
    others = ",".join(peer for peer in PEERS if peer not in TORCH_PEERS)
    if set(chosen) & set(TORCH_PEERS) and importlib.util.find_spec("torch") is None:
        raise UsageError(f"PyTorch is not installed: pip install '.[peers]', or leave it out with --peers={others}")
    if "torch_compiled" in chosen and not shutil.which(os.environ.get("CXX", "g++")):
        raise UsageError("torch_compiled needs a C++ compiler, and there is no g++: apt-get install g++, or leave it "
                         f"out with --peers={others},torch_eager")
    return chosen


def parse_options(flags: Iterable[str]) -> dict[str, Any]:
    """Reads ["cache=device", ...] as options of Mirrorline; raises UsageError for what training would refuse too."""
    values, known = {}, options()
    for flag in flags:
        name, _, text = flag.removeprefix("--").partition("=")
        if name not in known:
            raise unknown_name("option", name, known)
        kind = value_type(known[name])
        try:
            values[name] = {"bool": text in ("true", "True", "1"), "tuple": text.split(",")}.get(
                kind.__name__, None) if kind in (bool, tuple) else kind(text)
        except ValueError:
            raise UsageError(f"--option={name} must be of type {kind.__name__}; found '{text}'") from None
    ExperimentConfig.from_flat(values)
    return values


def parts_matching(text: str) -> list[str]:
    """Returns the names of the parts that contain a text; raises UsageError where none does.

    Without a text, those of ARCHITECTURES are left out.
    """
    names = (*WORKLOADS, *comparisons.NAMES, *ARCHITECTURES)
    found = [name for name in names if text in name and (text or name not in ARCHITECTURES)]
    if not found:
        raise unknown_name("part", text, names)
    return found


def circumstances(settings: Settings) -> dict[str, Any]:
    """Returns what a measurement depends on, of JSON's types; a part measured under others is measured again."""
    def version(name):
        try:
            return importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            return None

    sources = hashlib.sha256()
    for folder in ("pipeline", "launch", "flags", "benchmarks"):
        for path in sorted((REPOSITORY / folder).rglob("*.py")):
            sources.update(str(path.relative_to(REPOSITORY)).encode() + path.read_bytes())
    return {"rounds": settings.rounds, "data": "TensorFlow Datasets" if settings.data_dir else "random",
            "peers": list(settings.peers), "options": settings.options, "cores": len(os.sched_getaffinity(0)),
            "processor": cpu_model(), "python": platform.python_version(),
            "versions": {name: version(name) for name in PACKAGES}, "sources_sha256": sources.hexdigest()}


def run(settings: Settings, only: str, fresh: bool, output: pathlib.Path, info: Callable[[str], Any] = print) -> None:
    """Measures the parts that are not there yet, writing each when it is done.

    Args:
      settings: Settings.
      only: text that a part's name has to contain.
      fresh: whether to measure again what is there.
      output: the JSON file; the table is written next to it as .md.
      info: takes lines for the user.
    """
    names, conditions = parts_matching(only), circumstances(settings)
    report = json.loads(output.read_text()) if output.exists() else {"parts": {}}
    with tempfile.TemporaryDirectory(prefix="mirrorline-peers-") as folder:
        for name in names:
            stored = report["parts"].get(name)
            if stored and stored["circumstances"] == conditions and not fresh:
                info(f"{name}: measured {stored['date']}; --fresh measures it again")
                continue
            info(f"{name}: {settings.rounds} rounds")

            def report_round(number, values, name=name):
                last = ", ".join(f"{key} {numbers[-1]:,.4g}" for key, numbers in values.items())
                info(f"{name}: round {number + 1} of {settings.rounds}: {last}")

            measure = comparisons.measure if name in comparisons.NAMES else measure_workload
            found = measure(name, pathlib.Path(folder), settings, report_round)
            date = datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%d %H:%M UTC")
            report["parts"][name] = {"date": date, "circumstances": conditions, **found}
            output.write_text(json.dumps(report, indent=1) + "\n")
            output.with_suffix(".md").write_text(table.markdown(report))
    info(table.markdown(report))
    info(f"look    {output.with_suffix('.md')}")


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command; returns the exit code: 0, 1 a failure, 2 wrong use."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.peers", description=__doc__.splitlines()[0])
    parser.add_argument("--data_dir", help="folder with mnist and cifar10, prepared for TensorFlow Datasets; else "
                                           "random images of the same shapes and sizes")
    parser.add_argument("--rounds", type=int, default=PAIRS, help="turns of every peer; fewer than 15 resolve nothing")
    parser.add_argument("--quick", action="store_true", help=f"{QUICK_ROUNDS} rounds, to see it work")
    parser.add_argument("--only", default="", help=f"text in the names of the parts to measure: "
                                                   f"{', '.join((*WORKLOADS, *comparisons.NAMES))}; or "
                                                   f"{', '.join(ARCHITECTURES)}")
    parser.add_argument("--peers", default=",".join(PEERS), help=f"which of {', '.join(PEERS)}")
    parser.add_argument("--option", action="append", default=[], metavar="NAME=VALUE",
                        help="option of Mirrorline's configuration, such as cache=device; may be repeated")
    parser.add_argument("--fresh", action="store_true", help="measure again what is in the output already")
    parser.add_argument("--output", type=pathlib.Path, default=REPOSITORY / "docs" / "measured" / "peers.json",
                        help="JSON file; the table is written next to it as .md")
    given = parser.parse_args(arguments)
    before = signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))  # Clears away as an end does.
    try:
        if given.rounds < 1:
            raise UsageError(f"--rounds must be at least 1; found {given.rounds}")
        if not given.output.parent.is_dir():
            raise UsageError(f"--output={given.output} cannot be written: give a file in a directory that exists")
        settings = Settings(QUICK_ROUNDS if given.quick else given.rounds, given.data_dir,
                            check_peers(given.peers.split(",")), parse_options(given.option))
        run(settings, given.only, given.fresh, given.output, lambda text: print(text, flush=True))
    except (UsageError, RunFailure) as error:
        print(error, file=sys.stderr)
        return 2 if isinstance(error, UsageError) else 1
    finally:
        signal.signal(signal.SIGTERM, before)
    return 0


if __name__ == "__main__":
    sys.exit(main())
