"""Reads the operations of a trace of TensorFlow's profiler, and when each of them ran.

The trace is an XSpace (tensorflow/tsl/profiler/protobuf/xplane.proto): planes (a device or the host) of lines (a thread
or a stream of a GPU) of events, which on one line follow each other or are nested.
"""
import dataclasses
import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import numpy as np

HOST, GPU, STREAM = "/host:CPU", "/device:GPU:", "Stream"
INPUT_THREADS, INPUT_PIPELINE = "tf_data", "input pipeline"
ASYNCHRONOUS = "ExecutorState::ProcessAsync::Start"  # Its statistics contain the operation's name.
CALLS = ("PartitionedCall", "StatefulPartitionedCall", "If", "While", "StatelessIf", "StatelessWhile")
# Of an instruction that it runs in parallel, XLA on a CPU records only the start.
COMPILED, UNRECORDED = "CpuExecutable::ExecuteAsyncOnStream", "XLA in parallel"
LIBRARY = re.compile("^_Mkl(Native)?")  # Operations computed by oneDNN.
# Parts of a name's path that come from control flow, function calls, the gradient tape and replicas.
SCOPE = re.compile(r"(while|body|cond|then|else|gradient_tape|_\d+|while_\d+|cond_\d+|replica_\d+|"
                   r"(Stateful)?PartitionedCall(_\d+)?)$")


@dataclasses.dataclass(frozen=True)
class Operations:
    """The operations of one device, during the steps only.

    Attributes:
      device: "CPU" or "GPU:0".
      kinds: types of the operations.
      names: of the operations in the model.
      kind, name: [n] int64, indices into `kinds` and `names`.
      parent: [n] int64, index of the operation on the same line that contains this one, -1 without.
      background: [n] bool, whether only the time counts in which no other operation runs: its start and end are
        recorded, but not when it worked in between.
      start, end: [n] float64, picoseconds of the steps' time, from 0 to `duration`.
      duration: picoseconds of all steps.
    """

    device: str
    kinds: list[str]
    names: list[str]
    kind: np.ndarray
    name: np.ndarray
    parent: np.ndarray
    background: np.ndarray
    start: np.ndarray
    end: np.ndarray
    duration: float


def operations(space: Any, marker: str, beat: Callable[[], object] = lambda: None) -> list[Operations]:
    """Reads the operations that ran in the steps.

    Args:
      space: XSpace.
      marker: name of the host's events that span the steps; operations outside of them are left out.
      beat: called now and then, since a long trace takes a while.

    Returns:
      The operations of each GPU with recorded kernels, else those of the CPU.
    """
    clock = _steps_clock(space, marker)
    gpus = [(plane, lines) for plane in space.planes if plane.name.startswith(GPU)
            and (lines := [line for line in plane.lines if line.name.startswith(STREAM)])]
    if gpus:
        return [_Reader(plane, clock, beat).read(lines, plane.name.removeprefix("/device:")) for plane, lines in gpus]
    return [_Reader(plane, clock, beat).read(plane.lines, "CPU") for plane in space.planes if plane.name == HOST]


def _steps_clock(space: Any, marker: str) -> tuple[np.ndarray, np.ndarray]:
    """Returns (times, steps' times), [2m] float64 ps each: the steps' time stands still between the steps."""
    spans = sorted(
        (_begin(line, event), event.duration_ps) for plane in space.planes if plane.name == HOST
        for line in plane.lines for event in line.events if plane.event_metadata[event.metadata_id].name == marker)
    times, passed = [0.0], [0.0]
    for begin, duration in spans:
        times += [begin, begin + duration]
        passed += [passed[-1], passed[-1] + duration]
    return np.array(times, np.float64), np.array(passed, np.float64)


def _begin(line: Any, event: Any) -> int:
    return line.timestamp_ns * 1000 + event.offset_ps


class _Reader:
    """Reads one plane."""

    def __init__(self, plane: Any, clock: tuple[np.ndarray, np.ndarray], beat: Callable[[], object]):
        self._plane, self._clock, self._beat = plane, clock, beat
        # {metadata_id: (kind, name), None for no operation, or a function from an event to these}
        self._known: dict[int, Any] = {}
        self._kinds: dict[str, int] = {}
        self._names: dict[str, int] = {}
        self._rows: list[tuple] = []

    def read(self, lines: Iterable[Any], device: str) -> Operations:
        """Returns the Operations of some lines of the plane."""
        for line in lines:
            self._beat()
            self._read_line(line)
        rows = np.array(self._rows, np.float64).reshape(-1, 5)
        kind, name, parent = rows[:, :3].astype(np.int64).T
        start, end = (np.interp(rows[:, column], *self._clock) for column in (3, 4))
        return Operations(device, list(self._kinds), list(self._names), kind, name, parent,
                          kind == self._kinds.get(UNRECORDED, -1), start, end, float(self._clock[1][-1]))

    def _read_line(self, line: Any) -> None:
        found = []
        for event in line.events:
            operation = self._operation(event)
            if operation:
                begin = _begin(line, event)
                found.append((begin, begin + event.duration_ps, operation))
        found.sort(key=lambda each: (each[0], -each[1]))
        of_input = line.name.startswith(INPUT_THREADS)
        open_ones: list[tuple[int, int]] = []
        for begin, end, (kind, name) in found:
            while open_ones and open_ones[-1][1] <= begin:
                open_ones.pop()
            parent = open_ones[-1][0] if open_ones and kind != UNRECORDED else -1
            if kind != UNRECORDED:
                open_ones.append((len(self._rows), end))
            kind = INPUT_PIPELINE if of_input else kind
            self._rows.append((self._kinds.setdefault(kind, len(self._kinds)),
                               self._names.setdefault(name, len(self._names)), parent, begin, end))

    def _operation(self, event: Any) -> tuple[str, str] | None:
        """Returns (kind, name) of an event's operation, None without."""
        if event.metadata_id not in self._known:
            self._known[event.metadata_id] = self._describe(event)
        known = self._known[event.metadata_id]
        return known(event) if callable(known) else known

    def _describe(self, event: Any) -> Any:
        meta = self._plane.event_metadata[event.metadata_id]
        if self._plane.name.startswith(GPU):
            return lambda event: _kernel(meta.name, self._statistics(event))
        if meta.name == ASYNCHRONOUS:
            return lambda event: _asynchronous(self._statistics(event))
        if meta.name == COMPILED:
            return UNRECORDED, "not distinguished in the trace"
        if "hlo_op" in self._statistics(event):
            return _compiled_kind(meta.name), f"XLA {meta.name}"
        name, colon, kind = meta.name.rpartition(":")
        is_operation = colon and name and meta.display_name == kind and not name.endswith(":")
        return (LIBRARY.sub("", kind), in_model(name, kind)) if is_operation else None

    def _statistics(self, event: Any) -> dict[str, str]:
        known, found = self._plane.stat_metadata, {}
        for stat in event.stats:
            which = stat.WhichOneof("value")
            if which in ("str_value", "ref_value"):
                value = getattr(stat, which)
                found[known[stat.metadata_id].name] = known[value].name if which == "ref_value" else value
        return found


def _kernel(name: str, statistics: Mapping[str, str]) -> tuple[str, str]:
    """Returns (kind, name) of the operation that started a kernel, or else of the kernel or copy itself."""
    operation, colon, kind = statistics.get("tf_op", "").rpartition(":")
    if colon and operation:
        return kind, in_model(operation, kind)
    if "hlo_op" in statistics:
        return _compiled_kind(statistics["hlo_op"]), f"XLA {statistics['hlo_op']}"
    return re.split(r"[<(]", name)[0], name


def _asynchronous(statistics: Mapping[str, str]) -> tuple[str, str] | None:
    """Returns (kind, name) of an operation that may run on after its call returns; None for one that calls others."""
    kind = statistics.get("kernel_type", "asynchronous call")
    return None if kind in CALLS else (kind, in_model(statistics.get("name", "")))


def _compiled_kind(name: str) -> str:
    """Returns XLA's name of an instruction without its number: convolution of convolution.12."""
    return "XLA " + re.sub(r"[.\d]+$", "", name)


def in_model(name: str, kind: str = "") -> str:
    """Returns a name without its kind and the parts added by control flow, the gradient tape and replicas."""
    *path, last = name.split("/")
    path = [part for part in path if not SCOPE.fullmatch(part)]
    return "/".join(path if path and re.sub(r"_\d+$", "", last) == LIBRARY.sub("", kind) else [*path, last])
