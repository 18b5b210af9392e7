"""Projects the measured step to more GPUs and machines by a cost model of the reductions.

A ring all-reduce of S bytes over n GPUs is a reduce-scatter and an all-gather of n-1 messages each, one after another:

    2(n-1)/n * S / bandwidth + 2(n-1) * latency

(Patarasuk and Yuan, "Bandwidth optimal all-reduce algorithms for clusters of workstations", 2009; the cost of a message
is that of Thakur, Rabenseifner and Gropp, "Optimization of collective communication operations in MPICH", 2005.) A ring
over all GPUs passes m-1 of m machines' borders in each half, so 2(m-1) of its messages have the latency between
machines, as in NCCL's own cost model (src/graph/tuning.cc), and its slowest link is the bandwidth of all.

A hierarchical one reduces and scatters inside each machine of g GPUs, has a ring between the m machines for the shard
of each GPU, and gathers inside (Mikami and others, "Massively distributed SGD", 2018; Cho, Finkler and Kung,
"BlueConnect", 2019):

    2(g-1)/g * S / inside + 2(g-1) * latency inside  +  2(m-1)/m * S / between + 2(m-1) * latency between

The shards of a machine share its one adapter, so that together the whole buffer goes through it.
"""
import dataclasses
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from pipeline.benchmark.derived import batch_of, is_measured
from pipeline.benchmark.grid import KEY, replicas_words
from pipeline.errors import UsageError
from pipeline.quantities import counted

GOOD = 0.9  # The efficiency that `step_ms_for_90_percent` is about.
REACHED = 0.8  # Share of a link's nominal bandwidth that a well-tuned all-reduce reaches.
FARTHEST = 2**20  # Most GPUs for which it is computed whether the network bounds the step.
NCCL_LATENCY = "latency of a ring's message: NCCL's own cost model (src/graph/tuning.cc, protocol Simple)"


@dataclasses.dataclass(frozen=True)
class Link:
    """One direction of a connection.

    Attributes:
      name: for reports.
      gigabytes_per_second: nominal bandwidth, 1e9 bytes a second; of each GPU inside a machine, of the whole machine
        between machines.
      microseconds: latency of one message.
      source: of the two numbers.
    """

    name: str
    gigabytes_per_second: float
    microseconds: float
    source: str


@dataclasses.dataclass(frozen=True)
class GpuCluster:
    """Machines of `per_machine` GPUs, with one Link inside and another between them.

    `reached` is the share of the nominal bandwidth that a reduction reaches.
    """

    name: str
    per_machine: int
    inside: Link
    between: Link
    reached: float = REACHED

    def machines(self, replicas: int) -> int:
        """Returns the number of machines that so many GPUs fill."""
        return -(-replicas // self.per_machine)


NVLINK_4 = Link("NVLink 4", 450.0, 3.4, f"18 links of 25 GB/s a direction (NVIDIA H100 data sheet); {NCCL_LATENCY}")
PCIE_4 = Link("PCIe 4 x16", 31.5, 5.7, f"16 lanes of 16 GT/s, 128b/130b coded (PCIe 4.0); {NCCL_LATENCY}")
INFINIBAND_NDR = Link("InfiniBand NDR 400", 50.0, 14.0, f"one adapter of 400 Gbit/s a machine; {NCCL_LATENCY}")
ETHERNET_100 = Link("100 Gbit/s Ethernet", 12.5, 50.0, "one adapter a machine; latency of TCP through the kernel, "
                                                       "assumed")
DEFAULT_LINKS = (
    GpuCluster("NVLink 4 and InfiniBand NDR 400, 8 GPUs a machine", 8, NVLINK_4, INFINIBAND_NDR),
    GpuCluster("PCIe 4 and 100 Gbit/s Ethernet, 4 GPUs a machine", 4, PCIE_4, ETHERNET_100),
)


def given_links(inside: str | None, between: str | None, gpus_per_machine: int) -> tuple[GpuCluster, ...] | None:
    """Returns a tuple of one GpuCluster with the links that a user gave as "GB/s:microseconds", or None without any.

    Raises:
      UsageError: one of the two is missing, or not of that form.
    """
    texts = {"link_inside": inside, "link_between": between}
    if not any(texts.values()):
        return None
    links = []
    for name, text in texts.items():
        try:
            bandwidth, latency = map(float, (text or "").split(":"))
        except ValueError:
            bandwidth, latency = 0.0, 0.0
        if not (0 < bandwidth < 1e9 and 0 <= latency < 1e9):
            raise UsageError(f"--{name} must be GB/s:microseconds, such as 50:14, and both links are given together; "
                             f"found '{text or ''}'")
        links.append(Link(f"{bandwidth:g} GB/s, {latency:g} µs", bandwidth, latency, f"--{name}"))
    name = f"{counted(gpus_per_machine, 'GPU')} a machine, links as given"
    return (GpuCluster(name, gpus_per_machine, links[0], links[1]),)


def choose(cells: Iterable[Mapping[str, Any]]) -> Mapping[str, Any] | None:
    """Returns the cell to project from, the fastest of those with the fewest replicas, or None."""
    able = [cell for cell in cells if is_measured(cell) and cell.get("reduced_bytes")]
    return min(able, key=lambda cell: (cell["workers"] * cell["replicas"], cell.get("emulated") or False,
                                       -cell["examples_per_second"]), default=None)


def replica_counts(most: int) -> list[int]:
    """Returns 1, 2, 4, ... up to and with `most`."""
    return [2**power for power in range(most.bit_length()) if 2**power < most] + [most]


def transfer_ms(size: float, devices: int, gigabytes_per_second: float) -> float:
    """Returns the ms for 2(n-1)/n of `size` bytes over a link."""
    return 2 * (devices - 1) / devices * size / (gigabytes_per_second * 1e9) * 1e3


def ring_ms(size: float, replicas: int, cluster: GpuCluster) -> float:
    """Returns the time of an all-reduce by one ring over all GPUs in milliseconds.

    Args:
      size: bytes of the buffer on each GPU.
      replicas: number of GPUs, which fill one machine after the other; 1 costs nothing.
      cluster: the machines.
    """
    machines, bandwidth = cluster.machines(replicas), cluster.inside.gigabytes_per_second
    if machines > 1:
        bandwidth = min(bandwidth, cluster.between.gigabytes_per_second)
    messages = (2 * (replicas - machines) * cluster.inside.microseconds
                + 2 * (machines - 1) * cluster.between.microseconds)
    return transfer_ms(size, replicas, cluster.reached * bandwidth) + messages / 1e3


def hierarchical_ms(size: float, replicas: int, cluster: GpuCluster) -> float:
    """Returns the time of a hierarchical all-reduce in milliseconds; the arguments are those of `ring_ms`."""
    steps = ((min(replicas, cluster.per_machine), cluster.inside), (cluster.machines(replicas), cluster.between))
    return sum(transfer_ms(size, devices, cluster.reached * link.gigabytes_per_second)
               + 2 * (devices - 1) * link.microseconds / 1e3 for devices, link in steps)


Reduction = Callable[[float, int, GpuCluster], float]
REDUCTIONS: dict[str, Reduction] = {"ring": ring_ms, "hierarchical": hierarchical_ms}


def statistics_ms(reduce: Reduction, statistics: Mapping[str, Any], replicas: int, cluster: GpuCluster) -> float:
    """Returns the ms a step for the reductions of synchronized batch statistics, one after another.

    `statistics` is {"count": reductions a step, "bytes": of all of them together}, or empty.
    """
    count = statistics.get("count") or 0
    return count * reduce(statistics["bytes"] / count, replicas, cluster) if count else 0.0


def project(cell: Mapping[str, Any], most: int, links: Iterable[GpuCluster] = DEFAULT_LINKS, reached: float = REACHED,
            step_ms: float | None = None) -> dict[str, Any]:
    """Projects the efficiency of weak scaling at 1, 2, 4, ..., `most` GPUs.

    Each GPU computes the measured step on its share of a batch that grows with the number of GPUs, then waits for the
    reduction of the gradients, and before for those of synchronized batch statistics. Nothing overlaps. The network
    bounds the step where the reductions take longer than computing it.

    Args:
      cell: a measured cell of benchmark.json, with `reduced_bytes`.
      most: the largest number of GPUs, at least 2.
      links: the clusters to project to.
      reached: share of the links' nominal bandwidth that a reduction reaches, in (0, 1].
      step_ms: of computing a step on a GPU; None: as measured in the cell.

    Returns:
      A dict of JSON types: "cell" {key: value}, "most", "step_ms", "batch_a_replica", "gradient_bytes",
      "reduced_bytes", "statistics_reductions" or None, "reached", "assumptions" [text] and "clusters", each with
      "name", "per_machine", "links" and "reductions": {"ring", "hierarchical": {"network_bound_from" (GPUs; None: not
      up to FARTHEST), "step_ms_for_90_percent" (the shortest step that keeps 90% at `most` GPUs) and "points"
      [{"replicas", "machines", "gradients_ms", "statistics_ms", "efficiency", "examples_per_second"}]}}.

    Raises:
      UsageError: a cell that was not measured or reduces nothing, or fewer than 2 GPUs.
    """
    if most < 2:
        raise UsageError(f"--project must be at least 2 GPUs; found {most}")
    if not (is_measured(cell) and cell.get("reduced_bytes")):
        raise UsageError("--project needs a measured step and the bytes that it reduces: no cell of this benchmark has "
                         "both")
    all_replicas = cell["workers"] * cell["replicas"]
    measured_ms = 1e3 * batch_of(cell) / cell["examples_per_second"]
    if all_replicas > 1:
        measured_ms -= min((cell.get("split_ms") or {}).get("reduction") or 0.0, 0.9 * measured_ms)
    statistics = cell.get("statistics_reductions") or {}
    facts = {"step_ms": step_ms or measured_ms, "batch_a_replica": batch_of(cell) / all_replicas,
             "gradient_bytes": cell.get("gradient_bytes"), "reduced_bytes": cell["reduced_bytes"],
             "statistics_reductions": statistics if statistics.get("count") else None}
    clusters = [_over(dataclasses.replace(cluster, reached=reached), most, facts) for cluster in links]
    return {"cell": {name: cell[name] for name in KEY} | {"batch_size": batch_of(cell)}, "most": most,
            "reached": reached, **facts, "clusters": clusters,
            "assumptions": _assumptions(cell, facts, reached, given=step_ms is not None)}


def _over(cluster, most, facts):
    return {"name": cluster.name, "per_machine": cluster.per_machine,
            "links": [dataclasses.asdict(cluster.inside), dataclasses.asdict(cluster.between)],
            "reductions": {name: _by(reduce, cluster, most, facts) for name, reduce in REDUCTIONS.items()}}


def _by(reduce, cluster, most, facts):
    points = [_point(reduce, cluster, replicas, facts) for replicas in replica_counts(most)]
    lost_ms = points[-1]["gradients_ms"] + points[-1]["statistics_ms"]
    return {"network_bound_from": bound_from(reduce, cluster, facts),
            "step_ms_for_90_percent": lost_ms * GOOD / (1 - GOOD), "points": points}


def _point(reduce, cluster, replicas, facts):
    gradients = reduce(facts["reduced_bytes"], replicas, cluster)
    statistics = statistics_ms(reduce, facts["statistics_reductions"] or {}, replicas, cluster)
    whole = facts["step_ms"] + gradients + statistics
    return {"replicas": replicas, "machines": cluster.machines(replicas), "gradients_ms": gradients,
            "statistics_ms": statistics, "efficiency": facts["step_ms"] / whole,
            "examples_per_second": 1e3 * replicas * facts["batch_a_replica"] / whole}


def bound_from(reduce: Reduction, cluster: GpuCluster, facts: Mapping[str, Any]) -> int | None:
    """Returns the least number of GPUs with which the reductions take longer than computing the step, or None.

    It is found by bisection up to FARTHEST, since reductions take longer with more GPUs. `facts` are "step_ms",
    "reduced_bytes" and "statistics_reductions", see `project`.
    """
    def bound(replicas):
        return _point(reduce, cluster, replicas, {"batch_a_replica": 1, **facts})["efficiency"] < 0.5

    few, many = 1, FARTHEST
    if not bound(many):
        return None
    while many - few > 1:
        middle = (few + many) // 2
        few, many = (few, middle) if bound(middle) else (middle, many)
    return many


def _assumptions(cell, facts, reached, given):
    statistics = facts["statistics_reductions"]
    took = "was given (--project_step_ms)" if given else "was measured here"
    lines = [
        f"Every GPU takes {facts['step_ms']:.4g} ms to compute its share of {facts['batch_a_replica']:g} examples, as "
        f"{took}; a device that computes it faster scales worse (--project_step_ms).",
        f"{facts['reduced_bytes'] / 1e6:.4g} MB are reduced once a step: gradients, averaged state and sums.",
        "Ring: one over all GPUs, 2(n-1)/n of the bytes at the bandwidth of its slowest link, and 2(n-1) messages one "
        "after another. Hierarchical: reduce-scatter inside each machine, a ring between the machines, all-gather "
        "inside. Trees and switches that reduce, which libraries may choose, are left out.",
        "Nothing overlaps: the reduction begins when the backward pass has ended, as in the measured step, whose "
        "reduction is one; with --reduction_bucket_mb a part may hide.",
        f"A link reaches {reached:.0%} of its nominal bandwidth; machines are filled one after the other and share no "
        "network.",
        "The batch grows with the GPUs (weak scaling); input keeps up; no GPU is slower than the others.",
    ]
    if statistics:
        lines.append(f"Synchronized batch statistics are {statistics['count']} more reductions a step, of "
                     f"{statistics['bytes'] / 1e3:.4g} kB together, one after another; without them: "
                     "--nosync_batch_norm.")
    if cell["workers"] * cell["replicas"] > 1:
        lines.append(f"The step was measured with {replicas_words(cell['workers'], cell['replicas'])}; its own "
                     "reduction is taken off.")
    return lines
