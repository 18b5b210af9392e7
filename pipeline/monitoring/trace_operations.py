"""Which operations a trace of TensorFlow's profiler holds, and when each of them ran.

The trace is an XSpace (tensorflow/tsl/profiler/protobuf/xplane.proto): planes (a device or the host) of lines (a thread
or a stream of a GPU) of events, which on one line follow or contain each other.
"""
import dataclasses
import re

import numpy as np

HOST, GPU, STREAM = "/host:CPU", "/device:GPU:", "Stream"
INPUT_THREADS, INPUT_PIPELINE = "tf_data", "input pipeline"
ASYNCHRONOUS = "ExecutorState::ProcessAsync::Start"  # Its statistics name the operation.
CALLS = ("PartitionedCall", "StatefulPartitionedCall", "If", "While", "StatelessIf", "StatelessWhile")
# XLA on a CPU records of an instruction that it runs in parallel no more than its start.
COMPILED, UNRECORDED = "CpuExecutable::ExecuteAsyncOnStream", "XLA in parallel"
# What control flow, function calls, the gradient's tape and replicas put into the path of a name.
LIBRARY = re.compile("^_Mkl(Native)?")  # Operations that oneDNN computes.
SCOPE = re.compile(r"(while|body|cond|then|else|gradient_tape|_\d+|while_\d+|cond_\d+|replica_\d+|"
                   r"(Stateful)?PartitionedCall(_\d+)?)$")


@dataclasses.dataclass(frozen=True)
class Operations:
    """The operations of one device, in the time of the steps alone.

    Attributes:
      device: "CPU" or "GPU:0".
      kinds: types of the operations, a list of str.
      names: of the operations in the model, a list of str.
      kind, name: [n] int64, indices into `kinds` and `names`.
      parent: [n] int64, index of the operation on the same line that contains this one, -1 without.
      background: [n] bool, whether it has only the time in which no other operation runs: what is recorded of it is not
        when it worked, but between which moments.
      start, end: [n] float64, picoseconds of the steps' time, from 0 to `duration`.
      duration: float, picoseconds of all steps.
    """

    device: str
    kinds: list
    names: list
    kind: np.ndarray
    name: np.ndarray
    parent: np.ndarray
    background: np.ndarray
    start: np.ndarray
    end: np.ndarray
    duration: float


def operations(space, marker, beat=lambda: None):
    """Reads the operations that ran in the steps.

    Args:
      space: XSpace.
      marker: name of the host's events that span the steps; what ran outside of them is left out.
      beat: called now and then, since a long trace takes a while.

    Returns:
      A list of Operations: one of each GPU with a record of its kernels, or else one of the CPU.
    """
    clock = _steps_clock(space, marker)
    gpus = [(plane, lines) for plane in space.planes if plane.name.startswith(GPU)
            and (lines := [line for line in plane.lines if line.name.startswith(STREAM)])]
    if gpus:
        return [_Reader(plane, clock, beat).read(lines, plane.name.removeprefix("/device:")) for plane, lines in gpus]
    return [_Reader(plane, clock, beat).read(plane.lines, "CPU") for plane in space.planes if plane.name == HOST]


def _steps_clock(space, marker):
    """Returns (times, steps' times), [2m] float64 ps each: the steps' time stands still between the steps' events."""
    spans = sorted(
        (_begin(line, event), event.duration_ps) for plane in space.planes if plane.name == HOST
        for line in plane.lines for event in line.events if plane.event_metadata[event.metadata_id].name == marker)
    times, passed = [0.0], [0.0]
    for begin, duration in spans:
        times += [begin, begin + duration]
        passed += [passed[-1], passed[-1] + duration]
    return np.array(times, np.float64), np.array(passed, np.float64)


def _begin(line, event):
    return line.timestamp_ns * 1000 + event.offset_ps


class _Reader:
    """Reads one plane."""

    def __init__(self, plane, clock, beat):
        self._plane, self._clock, self._beat = plane, clock, beat
        self._known = {}  # {metadata_id: (kind, name), None for what is no operation}
        self._kinds, self._names, self._rows = {}, {}, []

    def read(self, lines, device):
        """Returns the Operations of some lines of the plane."""
        for line in lines:
            self._beat()
            self._read_line(line)
        rows = np.array(self._rows, np.float64).reshape(-1, 5)
        kind, name, parent = rows[:, :3].astype(np.int64).T
        start, end = (np.interp(rows[:, column], *self._clock) for column in (3, 4))
        return Operations(device, list(self._kinds), list(self._names), kind, name, parent,
                          kind == self._kinds.get(UNRECORDED, -1), start, end, float(self._clock[1][-1]))

    def _read_line(self, line):
        found = []
        for event in line.events:
            operation = self._operation(event)
            if operation:
                begin = _begin(line, event)
                found.append((begin, begin + event.duration_ps, operation))
        found.sort(key=lambda each: (each[0], -each[1]))
        of_input, open_ones = line.name.startswith(INPUT_THREADS), []
        for begin, end, (kind, name) in found:
            while open_ones and open_ones[-1][1] <= begin:
                open_ones.pop()
            parent = open_ones[-1][0] if open_ones and kind != UNRECORDED else -1
            if kind != UNRECORDED:
                open_ones.append((len(self._rows), end))
            kind = INPUT_PIPELINE if of_input else kind
            self._rows.append((self._kinds.setdefault(kind, len(self._kinds)),
                               self._names.setdefault(name, len(self._names)), parent, begin, end))

    def _operation(self, event):
        """Returns (kind, name) of an event, or None where it is none of an operation."""
        known = self._known.get(event.metadata_id, self)
        if known is self:
            known = self._known[event.metadata_id] = self._describe(event)
        return known(event) if callable(known) else known

    def _describe(self, event):
        meta = self._plane.event_metadata[event.metadata_id]
        if self._plane.name.startswith(GPU):
            return lambda event: _kernel(meta.name, self._statistics(event))
        if meta.name == ASYNCHRONOUS:
            return lambda event: _asynchronous(self._statistics(event))
        if meta.name == COMPILED:
            return UNRECORDED, "not told apart in the trace"
        if "hlo_op" in self._statistics(event):
            return _compiled_kind(meta.name), f"XLA {meta.name}"
        name, colon, kind = meta.name.rpartition(":")
        is_operation = colon and name and meta.display_name == kind and not name.endswith(":")
        return (LIBRARY.sub("", kind), in_model(name, kind)) if is_operation else None

    def _statistics(self, event):
        known, found = self._plane.stat_metadata, {}
        for stat in event.stats:
            which = stat.WhichOneof("value")
            if which in ("str_value", "ref_value"):
                value = getattr(stat, which)
                found[known[stat.metadata_id].name] = known[value].name if which == "ref_value" else value
        return found


def _kernel(name, statistics):
    """Returns (kind, name) of what ran on a GPU: the operation that started it, or else the kernel or copy itself."""
    operation, colon, kind = statistics.get("tf_op", "").rpartition(":")
    if colon and operation:
        return kind, in_model(operation, kind)
    if "hlo_op" in statistics:
        return _compiled_kind(statistics["hlo_op"]), f"XLA {statistics['hlo_op']}"
    return re.split(r"[<(]", name)[0], name


def _asynchronous(statistics):
    """Returns (kind, name) of an operation that may go on after its call returns; None for one that calls others."""
    kind = statistics.get("kernel_type", "asynchronous call")
    return None if kind in CALLS else (kind, in_model(statistics.get("name", "")))


def _compiled_kind(name):
    """Returns what XLA calls an instruction, without its number: convolution.12 is convolution."""
    return "XLA " + re.sub(r"[.\d]+$", "", name)


def in_model(name, kind=""):
    """Returns a name without what control flow, the gradient's tape and replicas put into it, and without its kind."""
    *path, last = name.split("/")
    path = [part for part in path if not SCOPE.fullmatch(part)]
    return "/".join(path if path and re.sub(r"_\d+$", "", last) == LIBRARY.sub("", kind) else [*path, last])
