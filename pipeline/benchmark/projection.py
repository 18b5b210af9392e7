"""What more GPUs and machines would give: a cost model of the reduction beside the measured step.

A ring all-reduce of S bytes over n devices takes 2(n-1)/n * S / bandwidth + 2(n-1) * latency: a reduce-scatter and an
all-gather of n-1 messages each (Patarasuk and Yuan, "Bandwidth optimal all-reduce algorithms for clusters of
workstations", 2009). Over several machines it is hierarchical: reduce-scatter inside each machine, all-reduce of the
shards between machines, all-gather inside.
"""
import dataclasses

from pipeline.benchmark.derived import KEY, batch_of, is_measured
from pipeline.errors import UsageError

GOOD = 0.9  # The efficiency that `step_ms_for_90_percent` is about.
REACHED = 0.8  # Share of a link's nominal bandwidth that a well-tuned all-reduce reaches.
NCCL_LATENCY = "latency of a ring's message: NCCL's own cost model (src/graph/tuning.cc, protocol Simple)"


@dataclasses.dataclass(frozen=True)
class Link:
    """A connection, as one direction of it.

    Attributes:
      name: what it is called.
      gigabytes_per_second: nominal bandwidth, 1e9 bytes a second in one direction; of each GPU inside a machine, of
        the whole machine between machines.
      microseconds: latency of one message.
      source: where the two come from.
    """

    name: str
    gigabytes_per_second: float
    microseconds: float
    source: str


@dataclasses.dataclass(frozen=True)
class Cluster:
    """Machines of `per_machine` GPUs, connected by one Link inside and by another between them."""

    name: str
    per_machine: int
    inside: Link
    between: Link


NVLINK_4 = Link("NVLink 4", 450.0, 3.4, f"18 links of 25 GB/s a direction (NVIDIA H100 data sheet); {NCCL_LATENCY}")
PCIE_4 = Link("PCIe 4 x16", 31.5, 5.7, f"16 lanes of 16 GT/s, 128b/130b coded (PCIe 4.0); {NCCL_LATENCY}")
INFINIBAND_NDR = Link("InfiniBand NDR 400", 50.0, 14.0, f"one adapter of 400 Gbit/s a machine; {NCCL_LATENCY}")
ETHERNET_100 = Link("100 Gbit/s Ethernet", 12.5, 50.0, "one adapter a machine; latency of TCP through the kernel, "
                                                       "assumed")
DEFAULT_LINKS = (
    Cluster("8 GPUs a machine: NVLink 4 inside, InfiniBand NDR 400 between", 8, NVLINK_4, INFINIBAND_NDR),
    Cluster("4 GPUs a machine: PCIe 4 inside, 100 Gbit/s Ethernet between", 4, PCIE_4, ETHERNET_100),
)


def choose(cells):
    """Returns the cell that a projection starts from, or None: the fastest of those with the fewest replicas."""
    able = [cell for cell in cells if is_measured(cell) and cell.get("reduced_bytes")]
    return min(able, key=lambda cell: (cell["replicas"], cell.get("emulated") or False, -cell["examples_per_second"]),
               default=None)


def replica_counts(most):
    """Returns 1, 2, 4, ... up to and with `most`."""
    return [2**power for power in range(most.bit_length()) if 2**power < most] + [most]


def ring_ms(size, devices, link):
    """Returns the time of a ring all-reduce in milliseconds.

    Args:
      size: bytes of the buffer on each device.
      devices: how many take part; 1 costs nothing.
      link: the Link between neighbours.
    """
    bandwidth = REACHED * link.gigabytes_per_second * 1e9
    return 2 * (devices - 1) * (size / devices / bandwidth + link.microseconds * 1e-6) * 1e3


def all_reduce_ms(size, replicas, cluster):
    """Returns the time of an all-reduce in milliseconds, hierarchical where it is over several machines.

    The shards of a machine's GPUs share its one adapter, so between machines the whole buffer goes through it.

    Args:
      size: bytes of the buffer on each replica.
      replicas: how many take part, filling one machine of the Cluster after the other.
      cluster: the machines.
    """
    machines = -(-replicas // cluster.per_machine)
    inside = ring_ms(size, min(replicas, cluster.per_machine), cluster.inside)
    return inside + ring_ms(size, machines, cluster.between)


def project(cell, most, links=DEFAULT_LINKS):
    """Returns the efficiency of weak scaling to expect at 1, 2, 4, ..., `most` replicas: a projection, not measured.

    Each replica computes the measured step on its own share of a batch that grows with the replicas. The lower edge
    of the band lets the reduction wait for the whole backward pass, the upper one hides all of it behind the backward
    pass that has room there (None where the split of the step was not measured). Small reductions inside the forward
    pass (synchronized batch statistics), where the cell has `small_reductions` ({"count": a step, "bytes": a step}),
    can never hide.

    Args:
      cell: a measured cell of benchmark.json, with `reduced_bytes`.
      most: the largest number of replicas, at least 2.
      links: Clusters to project to.

    Returns:
      A dict of JSON types: "cell" {key: value}, "most", "step_ms", "backward_ms", "reduced_bytes", "assumptions" [text]
      and "clusters", each with "name", "per_machine", "links", "step_ms_for_90_percent" (the shortest step that keeps
      90% at `most` replicas when nothing is hidden) and "points" [{"replicas", "machines", "reduction_ms",
      "small_reductions_ms", "efficiency_without_overlap", "efficiency_with_overlap"}].

    Raises:
      UsageError: a cell that was not measured or reduces nothing, or less than 2 replicas.
    """
    if most < 2:
        raise UsageError(f"--project must be at least 2 replicas; found {most}")
    if not (is_measured(cell) and cell.get("reduced_bytes")):
        raise UsageError("--project needs a measured step and the bytes that it reduces: no cell of this benchmark has "
                         "both")
    split = cell.get("split_ms") or {}
    step_ms = 1e3 * batch_of(cell) / cell["examples_per_second"]
    if cell["replicas"] > 1:
        step_ms -= min(split.get("reduction") or 0.0, 0.9 * step_ms)
    small = cell.get("small_reductions") or {}
    facts = {"step_ms": step_ms, "backward_ms": split.get("backward"), "reduced_bytes": cell["reduced_bytes"]}
    return {"cell": {name: cell[name] for name in KEY} | {"batch_size": batch_of(cell)}, "most": most, **facts,
            "small_reductions": small or None, "clusters": [_over(cluster, most, facts, small) for cluster in links],
            "assumptions": _assumptions(cell, facts, small)}


def _over(cluster, most, facts, small):
    points = [_point(cluster, n, facts, small) for n in replica_counts(most)]
    lost_ms = points[-1]["reduction_ms"] + points[-1]["small_reductions_ms"]
    return {"name": cluster.name, "per_machine": cluster.per_machine,
            "links": [dataclasses.asdict(cluster.inside), dataclasses.asdict(cluster.between)],
            "step_ms_for_90_percent": lost_ms * GOOD / (1 - GOOD), "points": points}


def _point(cluster, replicas, facts, small):
    reduction = all_reduce_ms(facts["reduced_bytes"], replicas, cluster)
    count = small.get("count") or 0
    inner = count * all_reduce_ms((small.get("bytes") or 0) / count, replicas, cluster) if count else 0.0
    step, backward = facts["step_ms"], facts["backward_ms"]
    overlapped = None if backward is None else step / (step + inner + max(0.0, reduction - backward))
    return {"replicas": replicas, "machines": -(-replicas // cluster.per_machine), "reduction_ms": reduction,
            "small_reductions_ms": inner, "efficiency_without_overlap": step / (step + inner + reduction),
            "efficiency_with_overlap": overlapped}


def _assumptions(cell, facts, small):
    lines = [
        f"Every replica takes {facts['step_ms']:.4g} ms to compute its share, as was measured here; a device that "
        "computes it faster scales worse.",
        f"{facts['reduced_bytes'] / 1e6:.4g} MB are reduced once a step, by a ring inside a machine and a ring between "
        "machines: 2(n-1)/n of the bytes at the link's bandwidth, and 2(n-1) messages.",
        f"A link reaches {REACHED:.0%} of its nominal bandwidth; machines are filled one after the other and share no "
        "network.",
        "The batch grows with the replicas (weak scaling); input keeps up; no replica is slower than the others.",
    ]
    if facts["backward_ms"] is None:
        lines.append("No overlap of reduction and backward pass: the split of the step was not measured.")
    else:
        lines.append("Lower edge: the reduction begins when the backward pass has ended. Upper edge: it hides behind "
                     f"the backward pass ({facts['backward_ms']:.4g} ms).")
    if small:
        lines.append(f"{small['count']} small reductions a step of {small['bytes'] / 1e3:.4g} kB together, of "
                     "synchronized batch statistics, never hide.")
    if cell["replicas"] > 1:
        lines.append(f"The step was measured with {cell['replicas']} replicas; its own reduction is taken off.")
    return lines
