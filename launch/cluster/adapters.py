"""Reads the workers of a run from the environment that a cluster engine gives its processes: pure functions.

An engine starts the same command for each worker; its variables tell a process which worker it is and where the others
are. TensorFlow's own resolvers are not used: the one for Slurm sorts hosts as strings, so that n10 comes before n9, and
the one for Kubernetes needs host addresses, on which pods of the same node collide.
"""
import re
from collections.abc import Mapping, Sequence

from launch.cluster.ports import derived_ports
from pipeline.distributed.cluster import Cluster
from pipeline.errors import UsageError

MOST_WORKERS = 100_000
DEFAULT_PORT = 2222
PTY = ("SLURM_PTY_PORT", "SLURM_PTY_WIN_COL", "SLURM_PTY_WIN_ROW")  # Set by srun --pty.
SHOWN = 80  # Characters of a value in a message.


def from_environment(environment: Mapping[str, str]) -> Cluster | None:
    """Returns the Cluster that an engine's variables describe.

    TF_CONFIG is used first, then Slurm, then a JobSet of Kubernetes.

    Args:
      environment: {name: value}, such as os.environ.

    Returns:
      Cluster; None without an engine and for a single worker, which listens on no port.

    Raises:
      UsageError: variables that contradict each other or cannot be read, in one line.
    """
    for adapter in ADAPTERS.values():
        found = adapter(environment)
        if found is not None:
            return found if len(found.addresses) > 1 else None
    return None


def engine_variable(environment: Mapping[str, str]) -> str | None:
    """Returns the variable from which `from_environment` takes the Cluster; None without one."""
    return next((name for name, adapter in ADAPTERS.items() if adapter(environment) is not None), None)


def is_slurm_shell(environment: Mapping[str, str]) -> bool:
    """Tells whether this is a shell in a step of Slurm: only the first of its tasks has one (srun -n4 --pty bash)."""
    return any(environment.get(name) for name in PTY)


def from_tf_config(environment: Mapping[str, str]) -> Cluster | None:
    """Returns the Cluster of TF_CONFIG, None where it is not set or names no workers; see from_environment."""
    found = Cluster.parse(environment)
    if not found:
        return None
    attempt = _number(environment, "MIRRORLINE_ATTEMPT", 0)
    # The address of a single worker is not used and may have any form.
    return Cluster(found.addresses if len(found.addresses) > 1 else ("localhost:0",), found.rank, attempt)


def from_slurm(environment: Mapping[str, str]) -> Cluster | None:
    """Returns the Cluster of a step that srun started, None outside of one; see from_environment.

    Each rank has a port of its own, also on different hosts: several names may belong to one machine.
    """
    if not environment.get("SLURM_STEP_NODELIST") or "SLURM_PROCID" not in environment:
        return None  # A batch script is no step, although it has a SLURM_PROCID.
    nodes = expand_nodes(environment["SLURM_STEP_NODELIST"])
    counts = expand_counts(environment.get("SLURM_STEP_TASKS_PER_NODE", f"1(x{len(nodes)})"))
    if len(counts) != len(nodes):
        raise UsageError(f"SLURM_STEP_NODELIST={_short(environment['SLURM_STEP_NODELIST'])} has {len(nodes)} nodes, "
                         f"SLURM_STEP_TASKS_PER_NODE={_short(environment['SLURM_STEP_TASKS_PER_NODE'])} {len(counts)}; "
                         "start the workers with srun, which sets both")
    node_of = place_tasks(counts, environment.get("SLURM_DISTRIBUTION", "block"))
    variable = "SLURM_STEP_NUM_TASKS" if "SLURM_STEP_NUM_TASKS" in environment else "SLURM_NTASKS"
    tasks, rank = _number(environment, variable, len(node_of)), _number(environment, "SLURM_PROCID")
    if tasks != len(node_of) or rank >= tasks:
        raise UsageError(f"{variable}={tasks} and SLURM_PROCID={rank}, but this step's nodes have {len(node_of)} "
                         "tasks; start the workers with srun, which sets them all")
    if _number(environment, "SLURM_NODEID", node_of[rank]) != node_of[rank]:
        raise UsageError(f"task {rank} is on node {environment['SLURM_NODEID']} of the step instead of "
                         f"{node_of[rank]}: give srun --distribution=block")
    restarts = _number(environment, "SLURM_RESTART_COUNT", 0)
    attempt = _number(environment, "MIRRORLINE_ATTEMPT", restarts)
    ports = derived_ports(tasks, environment.get("SLURM_JOB_ID", ""), environment.get("SLURM_STEP_ID", ""), restarts,
                          attempt)
    return Cluster.from_hosts([nodes[node] for node in node_of], ports, rank, attempt)


def from_jobset(environment: Mapping[str, str]) -> Cluster | None:
    """Returns the Cluster of a JobSet's indexed job, None elsewhere; see from_environment.

    The manifest sets the parts of the host names, <jobset>-<job>-<n>-<pod>.<subdomain>: MIRRORLINE_JOBSET,
    MIRRORLINE_JOB, MIRRORLINE_JOB_INDEX (default 0), MIRRORLINE_SUBDOMAIN; and MIRRORLINE_WORKERS, MIRRORLINE_PORT
    (default 2222), MIRRORLINE_ATTEMPT.
    """
    names = ("MIRRORLINE_JOBSET", "MIRRORLINE_JOB", "MIRRORLINE_SUBDOMAIN", "MIRRORLINE_WORKERS")
    if "JOB_COMPLETION_INDEX" not in environment or not any(name in environment for name in names):
        return None
    missing = [name for name in names if not environment.get(name)]
    if missing:
        raise UsageError(f"JOB_COMPLETION_INDEX is set, {', '.join(missing)} not: a JobSet gives its workers all of "
                         f"{', '.join(names)}")
    jobset, job, subdomain, _ = (environment[name] for name in names)
    workers, rank = _number(environment, "MIRRORLINE_WORKERS"), _number(environment, "JOB_COMPLETION_INDEX")
    if not 0 < workers <= MOST_WORKERS or rank >= workers:
        raise UsageError(f"JOB_COMPLETION_INDEX={rank} with MIRRORLINE_WORKERS={workers}: the indices of N workers are "
                         "0 to N - 1; completions, parallelism and MIRRORLINE_WORKERS are the same number")
    index, port = _number(environment, "MIRRORLINE_JOB_INDEX", 0), _number(environment, "MIRRORLINE_PORT", DEFAULT_PORT)
    if not 0 < port < 2**16:
        raise UsageError(f"MIRRORLINE_PORT={port}: give a port from 1 to 65535")
    hosts = [f"{jobset}-{job}-{index}-{pod}.{subdomain}" for pod in range(workers)]
    return Cluster.from_hosts(hosts, (port,) * workers, rank, _number(environment, "MIRRORLINE_ATTEMPT", 0))


# By the variable that sets the workers.
ADAPTERS = {"TF_CONFIG": from_tf_config, "SLURM_STEP_NODELIST": from_slurm, "JOB_COMPLETION_INDEX": from_jobset}


def expand_nodes(text: str) -> list[str]:
    """Expands a host list of Slurm in its order: "n[08-10,3],m" is n08, n09, n10, n3, m.

    Raises:
      UsageError: it has another form.
    """
    items = re.findall(r"(?:[^,\[\]]|\[[^\[\]]*\])+", text)
    if ",".join(items) != text or not items:
        raise UsageError(f"SLURM_STEP_NODELIST={_short(text)} is no list of nodes such as n[1-3,7]")
    names = [name for item in items for name in _expand_item(item, text)]
    if len(names) > MOST_WORKERS:
        raise _too_many(text)
    return names


def _too_many(text: str) -> UsageError:
    return UsageError(f"SLURM_STEP_NODELIST={_short(text)} has more than {MOST_WORKERS:,} nodes")


def _expand_item(item: str, text: str) -> list[str]:
    """Returns the names of one item; of several brackets the last one counts fastest."""
    head, bracket, rest = item.partition("[")
    if not bracket:
        return [head]
    ranges, _, tail = rest.partition("]")
    numbers: list[str] = []
    for part in ranges.split(","):
        match = re.fullmatch(r"(\d{1,9})(?:-(\d{1,9}))?", part)
        first, last = (match[1], match[2] or match[1]) if match else ("0", "-1")
        if not 0 <= int(last) - int(first) < MOST_WORKERS:
            raise UsageError(f"SLURM_STEP_NODELIST={_short(text)}: [{_short(ranges)}] is no list of numbers and ranges "
                             "such as [1-3,7]")
        numbers += [f"{number:0{len(first)}d}" for number in range(int(first), int(last) + 1)]
    tails = _expand_item(tail, text)
    if len(numbers) * len(tails) > MOST_WORKERS:
        raise _too_many(text)
    return [f"{head}{number}{end}" for number in numbers for end in tails]


def expand_counts(text: str) -> list[int]:
    """Returns the number of tasks of each node: "2(x3),1" is [2, 2, 2, 1].

    Raises:
      UsageError: it has another form.
    """
    counts: list[int] = []
    for part in text.split(","):
        match = re.fullmatch(r"(\d{1,6})(?:\(x(\d{1,6})\))?", part)
        if not match:
            raise UsageError(f"SLURM_STEP_TASKS_PER_NODE={_short(text)} is no list of counts such as 2(x3),1")
        counts += [int(match[1])] * int(match[2] or 1)
    if sum(counts) > MOST_WORKERS:
        raise UsageError(f"SLURM_STEP_TASKS_PER_NODE={_short(text)} has more than {MOST_WORKERS:,} tasks")
    return counts


def place_tasks(counts: Sequence[int], distribution: str = "block") -> list[int]:
    """Returns the node of each rank.

    Args:
      counts: number of tasks of each node.
      distribution: SLURM_DISTRIBUTION; its first word is how ranks are distributed over nodes.

    Raises:
      UsageError: a distribution that these figures do not determine.
    """
    kind = re.split(r"[:,]", distribution.lower())[0]
    if kind in ("block", "*", "", "pack", "nopack"):
        return [node for node, count in enumerate(counts) for _ in range(count)]
    if kind == "cyclic":
        return [node for turn in range(max(counts)) for node, count in enumerate(counts) if turn < count]
    raise UsageError(f"SLURM_DISTRIBUTION={_short(distribution)}: which task is on which node is known for block and "
                     "cyclic only; give srun --distribution=block")


def _number(environment: Mapping[str, str], name: str, default: int | None = None) -> int:
    """Returns the number >= 0 in a variable."""
    text = environment.get(name, "")
    if text == "" and default is not None:
        return default
    if not re.fullmatch(r"\d{1,9}", text):
        raise UsageError(f"{name} must be a whole number >= 0; found '{_short(text)}'")
    return int(text)


def _short(text: str) -> str:
    return text if len(text) <= SHOWN else f"{text[:SHOWN]}..."
