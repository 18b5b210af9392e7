"""The workers of a run, as TF_CONFIG lists them. Standard library only."""
import dataclasses
import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

from pipeline.errors import UsageError

VARIABLE = "TF_CONFIG"
EXAMPLE = '{"cluster": {"worker": ["host0:2222", "host1:2222"]}, "task": {"type": "worker", "index": 0}}'
ADDRESS = re.compile(r"(?:\[([0-9A-Fa-f:.%\w]+)\]|([^\s:\[\]/]+)):(\d{1,5})")
SHOWN = 80  # Characters of a value in a message.


@dataclasses.dataclass(frozen=True)
class Cluster:
    """The workers of a run, and which of them this process is.

    Attributes:
      addresses: "host:port" or "[host]:port" by rank.
      rank: index of this process; rank 0 is the chief.
      attempt: how often the workers of this run were started before, from 0.
    """

    addresses: tuple[str, ...]
    rank: int
    attempt: int = 0

    @classmethod
    def of(cls, environment: Mapping[str, str]) -> "Cluster | None":
        """Reads TF_CONFIG from a mapping such as os.environ.

        Returns:
          A Cluster; None without TF_CONFIG and for a single worker, which listens on no port.

        Raises:
          UsageError: TF_CONFIG does not have the documented form, or has tasks other than workers.
        """
        found = cls.parse(environment)
        return found if found and len(found.addresses) > 1 else None

    @classmethod
    def parse(cls, environment: Mapping[str, str]) -> "Cluster | None":
        """Reads TF_CONFIG as `of` does, but also returns a Cluster for a single worker, whatever its address."""
        text = environment.get(VARIABLE, "").strip()
        if not text:
            return None
        try:
            value = json.loads(text)
        except (ValueError, RecursionError) as error:
            raise _wrong(f"is no JSON ({error})", text) from None
        cluster, task = (value.get(key, {}) if isinstance(value, dict) else None for key in ("cluster", "task"))
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
            raise _wrong(f"names this task a {task.get('type')}, not a worker", text)
        if isinstance(rank, bool) or not isinstance(rank, int) or not 0 <= rank < len(addresses):
            raise _wrong(f"gives this task the index {rank}; with {len(addresses)} workers it is 0 to "
                         f"{len(addresses) - 1}", text)
        for address in addresses:
            match = ADDRESS.fullmatch(address) if isinstance(address, str) else None
            if not match or not 0 < int(match[3]) < 2**16:
                raise _wrong(f"has the worker {_short(json.dumps(address))}, which is no host:port", text)
        if len(set(map(host_and_port, addresses))) < len(addresses):
            raise _wrong("names a worker twice; each needs a port of its own", text)
        return cls(tuple(addresses), rank)

    @classmethod
    def from_hosts(cls, hosts: Sequence[str], ports: Sequence[int], rank: int, attempt: int = 0) -> "Cluster":
        """Makes a Cluster of the host and port of each worker."""
        addresses = (f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
                     for host, port in zip(hosts, ports, strict=True))
        return cls(tuple(addresses), rank, attempt)

    @property
    def hosts(self) -> tuple[str, ...]:
        """Name or IP address of each worker's host."""
        return tuple(host_and_port(address)[0] for address in self.addresses)

    @property
    def ports(self) -> tuple[int, ...]:
        """Port on which each worker listens."""
        return tuple(host_and_port(address)[1] for address in self.addresses)

    @property
    def tf_config(self) -> str:
        """The value of TF_CONFIG for this process."""
        return json.dumps({"cluster": {"worker": self.addresses}, "task": {"type": "worker", "index": self.rank}})


def _alone(cluster: dict[str, Any], task: dict[str, Any]) -> Any:
    """Returns the address of the only task of a cluster where that is this process and it trains, else None.

    Platforms call a single task chief, master or worker, and leave out its type or index.
    """
    present = {kind: addresses for kind, addresses in cluster.items() if addresses}
    (kind, addresses), *others = present.items() or [("", ())]
    if others or kind not in ("chief", "master", "worker") or not isinstance(addresses, list) or len(addresses) > 1:
        return None
    return addresses[0] if task.get("type", kind) == kind and task.get("index", 0) in (0, "0") else None


def host_and_port(address: str) -> tuple[str, int]:
    """Splits "host:port" or "[host]:port"."""
    host, _, port = address.rpartition(":")
    return host.strip("[]"), int(port)


def _wrong(what: str, text: str) -> UsageError:
    return UsageError(f"{VARIABLE} {what}; found {_short(text)}; it looks like {EXAMPLE}, or is not set where there is "
                      "one machine")


def _short(text: str) -> str:
    text = " ".join(text.split())
    return text if len(text) <= SHOWN else f"{text[:SHOWN]}..."
