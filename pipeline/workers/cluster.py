"""Where the workers of a run are, as TF_CONFIG says. Standard library only."""
import dataclasses
import json

from pipeline.errors import UsageError

VARIABLE = "TF_CONFIG"
EXAMPLE = '{"cluster": {"worker": ["host:port", ...]}, "task": {"type": "worker", "index": 0}}'


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
          UsageError: TF_CONFIG is not what TensorFlow documents, or names tasks that are no workers.
        """
        text = environment.get(VARIABLE, "").strip()
        if not text:
            return None
        try:
            value = json.loads(text)
            addresses, task = value["cluster"]["worker"], value["task"]
            others = sorted(set(value["cluster"]) - {"worker"}) + [task["type"]] * (task["type"] != "worker")
            rank = int(task["index"])
        except (ValueError, KeyError, TypeError) as error:
            raise UsageError(f"{VARIABLE} cannot be read ({type(error).__name__}: {error}); found {text[:200]}; it has "
                             f"the form {EXAMPLE}") from error
        if others:
            raise UsageError(f"{VARIABLE} has tasks of the type {others[0]}: every task must be a worker; it has the "
                             f"form {EXAMPLE}")
        if not isinstance(addresses, list) or not all(isinstance(a, str) and ":" in a for a in addresses):
            raise UsageError(f"{VARIABLE} lists workers as {json.dumps(addresses)[:200]}: a list of host:port is "
                             "needed")
        if len(set(addresses)) < len(addresses):
            raise UsageError(f"{VARIABLE} names a worker twice: {', '.join(addresses)}; each needs a port of its own")
        if not 0 <= rank < len(addresses):
            raise UsageError(f"{VARIABLE} says this is worker {rank} of {len(addresses)}: give an index from 0 to "
                             f"{len(addresses) - 1}")
        return cls(tuple(addresses), rank) if len(addresses) > 1 else None
