"""Where the workers of a run are, as TF_CONFIG says. Standard library only."""
import dataclasses
import json
import re

from pipeline.errors import UsageError

VARIABLE = "TF_CONFIG"
EXAMPLE = '{"cluster": {"worker": ["host0:2222", "host1:2222"]}, "task": {"type": "worker", "index": 0}}'
ADDRESS = re.compile(r"(?:\[([0-9A-Fa-f:.%\w]+)\]|([^\s:\[\]/]+)):(\d{1,5})")
SHOWN = 80  # Characters of a value in a message.


@dataclasses.dataclass(frozen=True)
class Cluster:
    """The workers of a run and which of them this process is.

    Attributes:
      addresses: tuple of "host:port", in the order of the ranks.
      rank: index of this process; rank 0 is the chief.
    """

    addresses: tuple
    rank: int

    @classmethod
    def of(cls, environment):
        """Reads TF_CONFIG.

        Args:
          environment: mapping such as os.environ.

        Returns:
          A Cluster, or None where nothing is said or there is one worker: nothing then listens on any port.

        Raises:
          UsageError: TF_CONFIG is not what TensorFlow documents, or names tasks that are no workers, in one line.
        """
        found = cls.told(environment)
        return found if found and len(found.addresses) > 1 else None

    @classmethod
    def told(cls, environment):
        """Returns the Cluster of TF_CONFIG as `of` does, and also that of one worker, whatever its address is."""
        text = environment.get(VARIABLE, "").strip()
        if not text:
            return None
        try:
            value = json.loads(text)
        except (ValueError, RecursionError) as error:
            raise _wrong(f"is no JSON ({error})", text) from None
        cluster = value.get("cluster", {}) if isinstance(value, dict) else None
        task = value.get("task", {}) if isinstance(value, dict) else None
        if cluster == {} and isinstance(task, dict):
            return None
        if not isinstance(cluster, dict) or not isinstance(task, dict):
            raise _wrong("needs a cluster and a task", text)
        alone = _alone(cluster, task)
        if alone:
            return cls((str(alone),), 0)
        others = sorted(str(kind) for kind, addresses in cluster.items() if kind != "worker" and addresses)
        if others:
            raise _wrong(f"has tasks of the kind {', '.join(others)}; all are of the kind worker, the first is the "
                         "chief", text)
        addresses, rank = cluster.get("worker"), task.get("index")
        if not isinstance(addresses, list) or not addresses:
            raise _wrong("needs a list of workers, host:port each", text)
        if task.get("type") != "worker":
            raise _wrong(f"says that this task is a {task.get('type')}, not a worker", text)
        if isinstance(rank, bool) or not isinstance(rank, int) or not 0 <= rank < len(addresses):
            raise _wrong(f"says that this task has index {rank}; with {len(addresses)} workers it is 0 to "
                         f"{len(addresses) - 1}", text)
        for address in addresses:
            _check_address(address, text)
        if len(set(map(host_and_port, addresses))) < len(addresses):
            raise _wrong("names a worker twice; each needs a port of its own", text)
        return cls(tuple(addresses), rank)


def _alone(cluster, task):
    """Returns the address of the one task of a cluster, where that is this one and trains; else None.

    Platforms call it chief, master or worker, and of one that is alone they leave out what they like.
    """
    there = {kind: addresses for kind, addresses in cluster.items() if addresses}
    (kind, addresses), *others = there.items() or [("", ())]
    if others or kind not in ("chief", "master", "worker") or not isinstance(addresses, list) or len(addresses) > 1:
        return None
    return addresses[0] if task.get("type", kind) == kind and task.get("index", 0) in (0, "0") else None


def host_and_port(address):
    """Returns ("host", port) of "host:port" or "[host]:port"."""
    host, _, port = address.rpartition(":")
    return host.strip("[]"), int(port)


def _check_address(address, text):
    match = ADDRESS.fullmatch(address) if isinstance(address, str) else None
    if not match or not 0 < int(match[3]) < 2**16:
        raise _wrong(f"has the worker {_short(json.dumps(address))}, which is no host:port", text)


def _wrong(what, text):
    return UsageError(f"{VARIABLE} {what}; found {_short(text)}; it looks like {EXAMPLE}, or is not set where there is "
                      "one machine")


def _short(text):
    text = " ".join(text.split())
    return text if len(text) <= SHOWN else f"{text[:SHOWN]}..."
