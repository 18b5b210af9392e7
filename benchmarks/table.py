"""docs/measured/peers.md: the measurements of benchmarks.peers as tables."""
import statistics
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from benchmarks.ratios import verdict
from benchmarks.workloads import PEERS, WORKLOADS

NAMES = {"mirrorline": "Mirrorline", "keras_fit": "Keras `fit`", "keras_fit_many": "Keras `fit`, steps_per_execution",
         "custom_loop": "custom loop, a `tf.function` call a step", "torch_eager": "PyTorch eager",
         "torch_compiled": "PyTorch channels last, compiled"}
EXPLANATION = """\
Each peer is a process of its own; they take turns, one computing at a time, in the order A B C, C B A, A B C. Before
anything is timed each has trained three steps from the same weights on the same batches, and their losses agree to
0.01. All train with Adam at 1e-3 in float32 on every core, with loss and accuracy as metrics. A ratio is the median
over the rounds of neighbouring blocks, with its 95% bootstrap interval; it is met or missed where the whole interval is
on one side of the target and there are at least 15 rounds, else not resolved.

- Keras `fit`: `compile` and `fit` on a `tf.data` pipeline (shuffle, batch, scale whole batches, prefetch), without a
  progress bar. The second one runs several steps an execution.
- Custom loop: float32 images and one-hot labels in memory, shuffle, batch, one call of a `tf.function` a batch.
- PyTorch eager: `DataLoader` over a `TensorDataset`. Compiled: `torch.compile` (which needs a C++ compiler, g++),
  channels last, fused Adam, batches cut from one tensor.
- Matrix product: the largest rate of float32 products of 1024, 2048 or 4096 rows, TensorFlow's or PyTorch's, measured
  in the same rounds. Convolutions alone: each convolution of the model, forward and both backward kernels, timed alone
  and added up. Operations counted are those of the convolutions.
- Peak memory is that of the process after the same number of steps, first step counts from the start of the process.
"""


def markdown(report: Mapping[str, Any]) -> str:
    """Returns the text of docs/measured/peers.md for the contents of docs/measured/peers.json."""
    parts = report["parts"]
    lines = ["# Comparison with peers", "", EXPLANATION]
    for name in WORKLOADS:
        if name in parts:
            lines += workload_lines(name, parts[name])
    own = [name for name in parts if name not in WORKLOADS]
    if own:
        lines += ["## Mirrorline compared with itself, `cnn` unless named, batch 64", "",
                  *ratio_lines([parts[name] for name in own])]
        for name in own:
            lines += [f"**{name}**, {conditions(parts[name])}: {medians(parts[name])}.", ""]
    return "\n".join(lines).rstrip() + "\n"


def workload_lines(name: str, part: Mapping[str, Any]) -> list[str]:
    """Returns the lines of one workload: a row a peer, and the ratios."""
    workload = WORKLOADS[name]
    height, width, channels = workload.image_shape
    product = part["product"]["GFLOP/s"]
    with_ceiling = bool(product)
    heads = ["", "examples/s", "ms a step", *(["of the matrix product", "of the convolutions alone"] * with_ceiling),
             "evaluation examples/s", "peak MiB", "first step, s"]
    lines = [f"## `{name}`, {height}x{width}x{channels}, batch {workload.batch_size}", "", *head(heads)]
    for peer in PEERS:
        if peer in part["examples/s"]:
            lines.append(row([NAMES[peer], *peer_cells(part, peer, workload.batch_size)]))
    lines += ["", *ratio_lines([part])]
    if with_ceiling:
        lines += [f"Matrix product {statistics.median(product):.0f} GFLOP/s ({part['product']['by']}, "
                  f"{part['product']['size']} rows); {part['operations'] / 1e9:.2f} GFLOP a trained image; a step's "
                  f"convolutions alone {statistics.median(part['convolution_seconds']) * 1e3:.0f} ms.", ""]
    return [*lines, f"{conditions(part)}. Resting processes used at most {part['idle_share']:.1%} of a core.", ""]


def peer_cells(part: Mapping[str, Any], peer: str, batch_size: int) -> list[str]:
    """Returns the cells of one peer's row."""
    speeds = part["examples/s"][peer]
    middle = statistics.median(speeds)
    cells = [f"{middle:,.0f}", f"{batch_size / middle * 1e3:,.2f}"]
    product = part["product"]["GFLOP/s"]
    if product:
        reached = [s * part["operations"] / 1e9 / p for s, p in zip(speeds, product, strict=True)]
        alone = [c * s / batch_size for s, c in zip(speeds, part["convolution_seconds"], strict=True)]
        cells += [f"{statistics.median(reached):.2f}", f"{statistics.median(alone):.2f}"]
    evaluated = part["evaluation examples/s"].get(peer)
    return [*cells, f"{statistics.median(evaluated):,.0f}" if evaluated else "", f"{part['peak_MiB'][peer]:,.0f}",
            f"{part['first_step_seconds'][peer]:.1f}"]


def ratio_lines(parts: Iterable[Mapping[str, Any]]) -> list[str]:
    """Returns the table of the ratios of some parts, with their verdicts."""
    lines = head(["Mirrorline's", "median", "interval", "target", "verdict"])
    for part in parts:
        for entry in part["ratios"]:
            ratio, bound = entry["ratio"], entry["bound"]
            sign = "≥" if entry["at_least"] else "≤"
            lines.append(row([
                NAMES.get(entry["what"], entry["what"]), f"{ratio['median']:.3f}",
                f"{ratio['low']:.3f} to {ratio['high']:.3f}", "" if bound is None else f"{sign} {bound:g}",
                "" if bound is None else verdict(ratio, bound, entry["at_least"])]))
    return [*lines, ""]


def medians(part: Mapping[str, Any]) -> str:
    """Returns the medians of a part in words."""
    return "; ".join(f"{key} {statistics.median(values):,.4g} {unit}" for unit in ("examples/s", "seconds", "MiB")
                     for key, values in part.get(unit, {}).items())


def conditions(part: Mapping[str, Any]) -> str:
    """Returns when and under which conditions a part was measured."""
    under = part["circumstances"]
    versions = ", ".join(f"{name} {number}" for name, number in under["versions"].items() if number)
    flags = "".join(f" --option={name}={value}" for name, value in under["options"].items())
    chosen = under["peers"]
    peers = "" if list(PEERS) == chosen else f" --peers={','.join(chosen)}"
    data = " --data_dir=..." if under["data"] == "TensorFlow Datasets" else ""
    return (f"{part['date']}, {under['processor']}, {under['cores']} cores, Python {under['python']}, {versions}; "
            f"{under['rounds']} rounds, data {under['data']}: `python -m benchmarks.peers --rounds={under['rounds']}"
            f"{data}{peers}{flags}`")


def head(cells: Sequence[str]) -> list[str]:
    """Returns the first two lines of a table: numbers to the right."""
    return [row(cells), row(["---", *["---:"] * (len(cells) - 1)])]


def row(cells: Iterable[str]) -> str:
    """Returns one line of a table."""
    return "| " + " | ".join(cells) + " |"
