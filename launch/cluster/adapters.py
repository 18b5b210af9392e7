"""From what an engine tells a process to the workers of its run: pure functions of the environment.

An engine starts the same command once a worker; which of them a process is, and where the others are, it learns from
variables. TensorFlow's own resolvers are not asked: that for Slurm sorts hosts as strings, so that n10 comes before
n9, and that for Kubernetes wants the addresses of hosts, on which pods of the same node collide.
"""
import dataclasses
import json
import re

from launch.cluster.ports import derived_ports
from pipeline.distributed import cluster as tf_config
from pipeline.errors import UsageError

MOST_WORKERS = 100_000
DEFAULT_PORT = 2222
PTY = ("SLURM_PTY_PORT", "SLURM_PTY_WIN_COL", "SLURM_PTY_WIN_ROW")  # What srun --pty sets.
SHOWN = 80  # Characters of a value in a message.


@dataclasses.dataclass(frozen=True)
class Cluster:
    """The workers of a run, in the order of their ranks, and which of them this process is.

    Attributes:
      hosts: name or address of each worker's host.
      ports: the port that each worker listens on.
      rank: of this process; 0 is the chief.
      attempt: how often this run's workers were started before, from 0.
    """

    hosts: tuple
    ports: tuple
    rank: int
    attempt: int = 0

    @property
    def addresses(self):
        """host:port of each worker."""
        return [f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
                for host, port in zip(self.hosts, self.ports, strict=True)]

    @property
    def tf_config(self):
        """The text that TensorFlow looks for in the variable TF_CONFIG."""
        return json.dumps({"cluster": {"worker": self.addresses}, "task": {"type": "worker", "index": self.rank}})


def from_environment(environment):
    """Returns the Cluster that an engine's variables tell of.

    TF_CONFIG comes first, then Slurm, then a JobSet of Kubernetes.

    Args:
      environment: {name: value}, such as os.environ.

    Returns:
      Cluster; None where nothing is said of several workers, for one needs nothing that listens.

    Raises:
      UsageError: variables that contradict each other or cannot be read, in one line.
    """
    for adapter in ADAPTERS.values():
        found = adapter(environment)
        if found is not None:
            return found if len(found.hosts) > 1 else None
    return None


def told_by(environment):
    """Returns the variable without which `from_environment` would not find what it does; None where nothing is said."""
    return next((name for name, adapter in ADAPTERS.items() if adapter(environment) is not None), None)


def in_shell(environment):
    """Tells whether this is a shell in a step of Slurm: of its tasks (srun -n4 --pty bash) the first alone has one."""
    return any(environment.get(name) for name in PTY)


def from_tf_config(environment):
    """Returns the Cluster of TF_CONFIG, None where that is not set or says nothing; see from_environment."""
    told = tf_config.Cluster.told(environment)
    if not told:
        return None
    if len(told.addresses) == 1:  # Nobody looks for it there.
        return Cluster(("localhost",), (0,), 0, _number(environment, "MIRRORLINE_ATTEMPT", 0))
    hosts, ports = zip(*map(tf_config.host_and_port, told.addresses), strict=True)
    return Cluster(hosts, ports, told.rank, _number(environment, "MIRRORLINE_ATTEMPT", 0))


def from_slurm(environment):
    """Returns the Cluster of a step that srun started, None outside of one; see from_environment.

    Each rank has a port of its own, also on different hosts, since several names may be those of one machine.
    """
    if not environment.get("SLURM_STEP_NODELIST") or "SLURM_PROCID" not in environment:
        return None  # A batch script is no step, although it has a SLURM_PROCID.
    nodes = expand_nodes(environment["SLURM_STEP_NODELIST"])
    counts = expand_counts(environment.get("SLURM_STEP_TASKS_PER_NODE", f"1(x{len(nodes)})"))
    if len(counts) != len(nodes):
        raise UsageError(f"SLURM_STEP_NODELIST={_short(environment['SLURM_STEP_NODELIST'])} has {len(nodes)} nodes, "
                         f"SLURM_STEP_TASKS_PER_NODE={_short(environment['SLURM_STEP_TASKS_PER_NODE'])} {len(counts)}; "
                         "start the workers with srun, which sets both")
    places = place_tasks(counts, environment.get("SLURM_DISTRIBUTION", "block"))
    told = "SLURM_STEP_NUM_TASKS" if "SLURM_STEP_NUM_TASKS" in environment else "SLURM_NTASKS"
    tasks, rank = _number(environment, told, len(places)), _number(environment, "SLURM_PROCID")
    if tasks != len(places) or rank >= tasks:
        raise UsageError(f"{told}={tasks} and SLURM_PROCID={rank}, but this step's nodes have {len(places)} tasks; "
                         "start the workers with srun, which sets them all")
    if _number(environment, "SLURM_NODEID", places[rank]) != places[rank]:
        raise UsageError(f"task {rank} is on node {environment['SLURM_NODEID']} of the step instead of {places[rank]}: "
                         "give srun --distribution=block")
    restarts = _number(environment, "SLURM_RESTART_COUNT", 0)
    attempt = _number(environment, "MIRRORLINE_ATTEMPT", restarts)
    ports = derived_ports(tasks, environment.get("SLURM_JOB_ID", ""), environment.get("SLURM_STEP_ID", ""), restarts,
                          attempt)
    return Cluster(tuple(nodes[place] for place in places), ports, rank, attempt)


def from_jobset(environment):
    """Returns the Cluster of a JobSet's indexed job, None elsewhere; see from_environment.

    The manifest gives the names of which its host names are made, <jobset>-<job>-<n>-<pod>.<subdomain>:
    MIRRORLINE_JOBSET, MIRRORLINE_JOB, MIRRORLINE_JOB_INDEX (default 0), MIRRORLINE_SUBDOMAIN, and MIRRORLINE_WORKERS,
    MIRRORLINE_PORT (default 2222), MIRRORLINE_ATTEMPT.
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
    hosts = tuple(f"{jobset}-{job}-{index}-{pod}.{subdomain}" for pod in range(workers))
    return Cluster(hosts, (port,) * workers, rank, _number(environment, "MIRRORLINE_ATTEMPT", 0))


# By the variable that says that there are workers.
ADAPTERS = {"TF_CONFIG": from_tf_config, "SLURM_STEP_NODELIST": from_slurm, "JOB_COMPLETION_INDEX": from_jobset}


def expand_nodes(text):
    """Returns the names in a host list of Slurm's in its order: "n[08-10,3],m" is n08, n09, n10, n3, m.

    Raises:
      UsageError: not of that form.
    """
    items = re.findall(r"(?:[^,\[\]]|\[[^\[\]]*\])+", text)
    if ",".join(items) != text or not items:
        raise UsageError(f"SLURM_STEP_NODELIST={_short(text)} is no list of nodes such as n[1-3,7]")
    names = [name for item in items for name in _expand_item(item, text)]
    if len(names) > MOST_WORKERS:
        raise _too_many(text)
    return names


def _too_many(text):
    return UsageError(f"SLURM_STEP_NODELIST={_short(text)} has more than {MOST_WORKERS:,} nodes")


def _expand_item(item, text):
    """Returns the names of one item; with several brackets the last one counts fastest."""
    head, bracket, rest = item.partition("[")
    if not bracket:
        return [head]
    ranges, _, tail = rest.partition("]")
    numbers = []
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


def expand_counts(text):
    """Returns the number of tasks of each node: "2(x3),1" is [2, 2, 2, 1].

    Raises:
      UsageError: not of that form.
    """
    counts = []
    for part in text.split(","):
        match = re.fullmatch(r"(\d{1,6})(?:\(x(\d{1,6})\))?", part)
        if not match:
            raise UsageError(f"SLURM_STEP_TASKS_PER_NODE={_short(text)} is no list of counts such as 2(x3),1")
        counts += [int(match[1])] * int(match[2] or 1)
    if sum(counts) > MOST_WORKERS:
        raise UsageError(f"SLURM_STEP_TASKS_PER_NODE={_short(text)} has more than {MOST_WORKERS:,} tasks")
    return counts


def place_tasks(counts, distribution="block"):
    """Returns on which node each rank is.

    Args:
      counts: number of tasks of each node.
      distribution: SLURM_DISTRIBUTION; its first word is how ranks are dealt out to nodes.

    Raises:
      UsageError: a distribution that is not to be told from these figures alone.
    """
    kind = re.split(r"[:,]", distribution.lower())[0]
    if kind in ("block", "*", "", "pack", "nopack"):
        return [node for node, count in enumerate(counts) for _ in range(count)]
    if kind == "cyclic":
        return [node for turn in range(max(counts)) for node, count in enumerate(counts) if turn < count]
    raise UsageError(f"SLURM_DISTRIBUTION={_short(distribution)}: which task is on which node is known for block and "
                     "cyclic only; give srun --distribution=block")


def _number(environment, name, default=None):
    """Returns the number >= 0 in a variable."""
    text = environment.get(name, "")
    if text == "" and default is not None:
        return default
    if not re.fullmatch(r"\d{1,9}", text):
        raise UsageError(f"{name} must be a whole number >= 0; found '{_short(text)}'")
    return int(text)


def _short(text):
    return text if len(text) <= SHOWN else f"{text[:SHOWN]}..."
