"""The cost of Mirrorline's strategy, replicas, input, records and start."""
import contextlib
import dataclasses
import pathlib
from collections.abc import Callable, Mapping
from typing import Any

from benchmarks.processes import Process, Turns, in_order
from benchmarks.ratios import median_ratio
from benchmarks.workloads import CNN, WORKLOADS, Settings, Workload, prepare_data

Report = Callable[[int, dict[str, list[float]]], None]  # Called with the round and the values of each setting.
SAVING_INTERVAL = 30.0  # Seconds between two checkpoints, as --checkpoint_every=30s.
LOOP_SECONDS = 3.0  # Of a block in which one checkpoint is written.
BLOCK_SECONDS = 1.0
START_STEPS = 10


@dataclasses.dataclass(frozen=True)
class SettingsComparison:
    """Settings of one model that are measured in turns.

    Attributes:
      dataset: "mnist" or "cifar10", for `cnn`.
      orders: {setting: additions to the order of its process}; neighbours are compared most closely.
      ratios: of each (setting, base, target of the ratio of their examples/s or None).
    """

    dataset: str
    orders: dict[str, dict[str, Any]]
    ratios: tuple[tuple[str, str, float | None], ...]


PLAIN = {"peer": "mirrorline"}
HELD = {**PLAIN, "held_batch": True}
COMPARISONS = {
    "cnn mnist": SettingsComparison("mnist", {
        "one held batch": HELD, "MNIST, 1 replica": PLAIN, "no strategy": {**PLAIN, "no_strategy": True},
        "2 replicas, local statistics": {**PLAIN, "options": {"replicas": 2, "sync_batch_norm": False}},
        "2 replicas, synchronized statistics": {**PLAIN, "options": {"replicas": 2}}}, (
        ("MNIST, 1 replica", "no strategy", 0.98), ("2 replicas, local statistics", "MNIST, 1 replica", 0.95),
        ("2 replicas, synchronized statistics", "MNIST, 1 replica", None),
        ("MNIST, 1 replica", "one held batch", 0.97))),
    "cnn cifar10": SettingsComparison("cifar10", {
        "one held batch": HELD, "CIFAR-10, flip and crop": {**PLAIN, "options": {"augment": ["flip", "crop"]}}}, (
        ("CIFAR-10, flip and crop", "one held batch", 0.97),)),
}
RECORDS, START = {"records": CNN["mnist"], "records of small steps": WORKLOADS["mlp"]}, "start"
NAMES = (*COMPARISONS, *RECORDS, START)


def order_of(workload: Workload, data: pathlib.Path, order: Mapping[str, Any], options: Mapping[str, Any]) -> dict[str,
             Any]:
    """Returns the order of a process; options of the comparison take precedence over those of the user."""
    return {"workload": dataclasses.asdict(workload), "data": str(data), "weights": None, **order,
            "options": {**options, **order.get("options", {})}}


def block_steps(process: Process, seconds: float, warm_steps: int) -> int:
    """Warms a process up; returns the number of steps that take about so many seconds."""
    process.ask("train", steps=warm_steps)
    done = process.ask("train", steps=warm_steps)
    return max(2, round(seconds * done["steps"] / done["seconds"]))


def speed(answer: Mapping[str, Any], workload: Workload) -> float:
    """Returns the examples/s of a block."""
    return answer["steps"] * workload.batch_size / answer["seconds"]


def measure(name: str, folder: pathlib.Path, settings: Settings, report_round: Report) -> dict[str, Any]:
    """Measures one entry of NAMES.

    Args:
      name: the entry.
      folder: for data.
      settings: of the run.
      report_round: called after each round.

    Returns:
      {"examples/s" or "seconds" or "MiB": {setting: [rounds]}, "ratios": [{"what", "ratio", "bound", "at_least"}]}.
    """
    if name in RECORDS:
        return measure_records(RECORDS[name], folder, settings, report_round)
    if name == START:
        return measure_starts(folder, settings, report_round)
    comparison = COMPARISONS[name]
    workload = CNN[comparison.dataset]
    data = prepare_data(workload, folder, settings.data_dir)
    with contextlib.ExitStack() as stack:
        processes = {key: stack.enter_context(Process(key, order_of(workload, data, order, settings.options)))
                     for key, order in comparison.orders.items()}
        steps = {key: block_steps(process, BLOCK_SECONDS, workload.warm_steps) for key, process in processes.items()}
        turns, speeds = Turns(processes), {key: [] for key in processes}
        for number in range(settings.rounds):
            for key in in_order(processes, number):
                speeds[key].append(speed(turns.ask(key, "train", steps=steps[key]), workload))
            report_round(number, speeds)
    ratios = [{"what": f"{key} over {base}", "ratio": median_ratio(speeds[key], speeds[base]), "bound": bound,
               "at_least": True} for key, base, bound in comparison.ratios]
    return {"examples/s": speeds, "ratios": ratios, "idle_share": turns.idle_share}


def measure_records(workload: Workload, folder: pathlib.Path, settings: Settings,
                    report_round: Report) -> dict[str, Any]:
    """Compares the whole loop, with metrics, event files, progress and checkpoints, to the steps alone.

    A block has one checkpoint, whose cost is scaled to one each SAVING_INTERVAL.
    """
    data = prepare_data(workload, folder, settings.data_dir)
    with contextlib.ExitStack() as stack:
        bare = stack.enter_context(Process("bare steps", order_of(workload, data, PLAIN, settings.options)))
        window = block_steps(bare, LOOP_SECONDS / 4, workload.warm_steps)
        steps = 4 * window
        processes = {"bare steps": bare}
        for key, every in (("recorded", 10**7), ("recorded and saved", steps)):
            order = {"peer": "mirrorline_run", "options": {"checkpoint_every": str(every), "steps_per_loop": window}}
            processes[key] = stack.enter_context(Process(key, order_of(workload, data, order, settings.options)))
            # So that a checkpoint is started and finished well within a block.
            processes[key].ask("train", steps=2 * window)
        turns, speeds = Turns(processes), {key: [] for key in processes}
        for number in range(settings.rounds):
            for key in in_order(processes, number):
                speeds[key].append(speed(turns.ask(key, "train", steps=steps), workload))
            report_round(number, speeds)
    recorded, saved, plain = speeds["recorded"], speeds["recorded and saved"], speeds["bare steps"]
    share = LOOP_SECONDS / SAVING_INTERVAL
    # Seconds an example: recording, and the share of saving.
    both = [1 / (1 / a + (1 / b - 1 / a) * share) for a, b in zip(recorded, saved, strict=True)]
    compared = ((f"`{workload.model}`: recording, and saving every {SAVING_INTERVAL:g} s, over bare steps", both, 0.98),
                (f"`{workload.model}`: recording, and saving every {LOOP_SECONDS:g} s, over bare steps", saved, None),
                (f"`{workload.model}`: recording over bare steps", recorded, None))
    return {"examples/s": speeds, "idle_share": turns.idle_share, "ratios": [
        {"what": what, "ratio": median_ratio(first, plain), "bound": bound, "at_least": True}
        for what, first, bound in compared]}


def measure_starts(folder: pathlib.Path, settings: Settings, report_round: Report) -> dict[str, Any]:
    """Starts Mirrorline's whole loop and Keras `fit` in turns: seconds to the first step, memory after some more."""
    workload = CNN["mnist"]
    data = prepare_data(workload, folder, settings.data_dir)
    orders = {"Mirrorline": {"peer": "mirrorline_run"}, "Keras fit": {"peer": "keras_fit"}}
    seconds, memory = ({key: [] for key in orders} for _ in range(2))
    for number in range(settings.rounds):
        for key in in_order(orders, number):
            with Process(key, order_of(workload, data, orders[key], settings.options)) as process:
                seconds[key].append(process.ask("train", steps=1)["ended"] - process.born)
                process.ask("train", steps=START_STEPS)
                memory[key].append(process.ask("memory")["mebibytes"])
        report_round(number, seconds)
    return {"seconds": seconds, "MiB": memory, "ratios": [
        {"what": "start of the process to the end of the first step, over Keras fit's",
         "ratio": median_ratio(seconds["Mirrorline"], seconds["Keras fit"]), "bound": 1.0, "at_least": False},
        {"what": "peak memory over Keras fit's", "ratio": median_ratio(memory["Mirrorline"], memory["Keras fit"]),
         "bound": 1.0, "at_least": False}]}
