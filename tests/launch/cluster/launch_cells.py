"""What make acceptance does to two workers of `mirrorline launch`: killed, stopped, failing, hung, asked to stop.

    python -m tests.launch.cluster.launch_cells [TEXT]
"""
import dataclasses
import json
import os
import pathlib
import random
import re
import signal
import subprocess
import sys
import tempfile
import time
import uuid

from tests.commands import REPOSITORY, assert_every_step_once, environment, metrics, result
from tests.launch.cluster.supervised import MARK, Supervised, records, wait_for

STEPS = 150
STOPPED_TIMEOUT, HANG_TIMEOUT = 15.0, 20.0
SETTING = ("--dataset=digits", "--batch_size=96", f"--steps={STEPS}", "--steps_per_loop=1", "--evaluate_every=40",
           "--checkpoint_every=8", "--augment=flip,crop,mixup", "--tensorboard=scalars", "--schedule=constant",
           "--learning_rate=2e-3")
TWO = ("--workers=2", "--max_restarts=5", f"--stopped_timeout={STOPPED_TIMEOUT:g}")
TRAIN = ("train", *SETTING, "--model=three_apis")
TROUBLED = ("train", *SETTING, f"--extension={pathlib.Path(__file__).parent / 'troubled_model.py'}", "--model=troubled",
            f"--hang_timeout={HANG_TIMEOUT:g}")
TROUBLE = "MIRRORLINE_TEST_TROUBLE"
BEYOND = 10.0  # Most seconds from what can be known of to the next attempt's first step, without the trainer's start.


class Launched(Supervised):
    """A running `mirrorline launch`; its output is in the file `output`."""

    def __init__(self, folder, *flags, train=TRAIN, name="run"):
        self.workdir, self.mark = folder / name, uuid.uuid4().hex
        self.output = folder / f"{name}-{self.mark[:8]}.output"
        with open(self.output, "w") as output:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "launch", "launch", *(flags or TWO), "--", *train,
                 f"--workdir={self.workdir}"], stdout=output, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL,
                cwd=REPOSITORY, env={**environment(), MARK: self.mark, TROUBLE: str(folder / "trouble.json")})
        self.started.append(self)

    def end(self, timeout=400):
        """Returns the exit code once it has ended; nothing may be left of it."""
        code = self.process.wait(timeout=timeout)
        left = self.count_after()
        assert left == 0, f"{left} processes are left"
        return code

    def text(self):
        """Returns its output so far."""
        return self.output.read_text()

    def attempts(self):
        """Returns the records of the attempts of the run, those of earlier launches too."""
        return records(self.workdir / "attempts.jsonl")

    def until(self, condition, seconds=120):
        """Waits until a condition holds; false where the launch has ended before."""
        wait_for(lambda: condition() or self.process.poll() is not None, seconds)
        return self.process.poll() is None


@dataclasses.dataclass(frozen=True)
class Blow:
    """What happens to a run.

    Attributes:
      what: "kill", "stop", "ask" (SIGTERM), "hang", "raise" or "exit".
      whom: rank of a worker, or "launch".
      when: "start", "step" or "save".
    """

    what: str
    whom: int | str
    when: str

    @property
    def noticed_after(self):
        """Seconds that may pass until anybody can know of it: flags of `launch` and `train`."""
        return {"stop": STOPPED_TIMEOUT, "hang": HANG_TIMEOUT}.get(self.what, 0.0)

    @property
    def ends_all(self):
        """Whether the launch itself ends by it, so that its command is given again."""
        return self.what == "ask" or self.whom == "launch"


def latest(workdir):
    """Returns the wall time of the latest step on record, 0 before the first."""
    return max((r["wall_time"] for r in metrics(workdir, "train")), default=0.0)


def wait_for_moment(run, attempt, blow, draw, seconds):
    """Waits for the moment of a blow in an attempt; returns whether the run is still there.

    Args:
      run: Launched.
      attempt: number of the attempt.
      blow: Blow.
      draw: random.Random.
      seconds: how long a start and all steps take.
    """
    began, checkpoints = time.time(), run.workdir / "checkpoints"
    if not run.until(lambda: (run.workdir / "workers").exists() and len(run.workers(attempt)) == 2):
        return False
    if blow.when == "start":
        time.sleep(draw.uniform(0.0, seconds[0]))
        return run.process.poll() is None
    if not run.until(lambda: latest(run.workdir) > began):
        return False
    time.sleep(draw.uniform(0.2, 0.3) * seconds[1])  # Far enough for a checkpoint, so that there are restarts again.
    before = set(os.listdir(checkpoints)) if checkpoints.exists() else set()
    if blow.when == "save":
        return run.until(lambda: checkpoints.exists() and set(os.listdir(checkpoints)) - before)
    return run.process.poll() is None


def strike(run, attempt, blow, folder):
    """Deals a blow; returns its wall time."""
    if blow.what in ("hang", "raise", "exit"):
        trouble = folder / "trouble.json"
        trouble.with_suffix(".new").write_text(json.dumps({"rank": blow.whom, "after": 0, "what": blow.what}))
        os.rename(trouble.with_suffix(".new"), trouble)
        run.until(lambda: not trouble.exists())
        return time.time()
    number = {"kill": signal.SIGKILL, "stop": signal.SIGSTOP, "ask": signal.SIGTERM}[blow.what]
    os.kill(run.process.pid if blow.whom == "launch" else run.workers(attempt)[blow.whom], number)
    return time.time()


def survive(blows, train=TRAIN, seed=0):
    """Deals blows to runs, one an attempt; each run ends with the weights of the run that nobody touched.

    Returns:
      {"blows", "runs", "weights_sha256", and in seconds: "start" of a run that nobody touched, to its first step;
      "to_the_next_step", from each blow; "beyond_the_start", of these what was not the start of the next attempt;
      "to_the_end", of each launch that was asked to stop}.
    """
    with tempfile.TemporaryDirectory() as name:
        folder, draw, due = pathlib.Path(name), random.Random(seed), list(blows)
        whole = Launched(folder, train=train, name="whole")
        assert whole.end() == 0, whole.text()[-2000:]
        first = whole.attempts()[0]
        seconds = first["first_step"] - first["started"], latest(whole.workdir) - first["first_step"]
        found = {"blows": 0, "runs": 0, "weights_sha256": result(whole.workdir)["weights_sha256"],
                 "start": round(seconds[0], 1), "to_the_next_step": [], "beyond_the_start": [], "to_the_end": []}
        while due:
            found["runs"] += 1
            dealt = beat(folder, f"run{found['runs']}", due, draw, seconds, train, found)
            workdir = folder / f"run{found['runs']}"
            assert result(workdir)["weights_sha256"] == found["weights_sha256"], f"other weights after {dealt}"
            assert result(workdir)["test_loss"] == result(whole.workdir)["test_loss"]
            assert_every_step_once(workdir, STEPS)
            note_times(records(workdir / "attempts.jsonl"), dealt, found)
        return found


def beat(folder, name, due, draw, seconds, train, found):
    """Deals blows, taken from the front of `due`, to one run until it is done; returns [(Blow, wall time)]."""
    run, attempt, dealt = Launched(folder, train=train, name=name), 0, []
    while due and wait_for_moment(run, attempt, due[0], draw, seconds):
        blow = due.pop(0)
        at = strike(run, attempt, blow, folder)
        dealt.append((blow, at))
        found["blows"] += 1
        attempt += 1
        if blow.ends_all:
            code = run.end(timeout=120)
            assert code == (75 if blow.what == "ask" else -signal.SIGKILL), (blow, code, run.text()[-2000:])
            found["to_the_end"].append(round(time.time() - at, 1))
            # A launch that is killed writes no record of its attempt, so its number is given again.
            attempt = len(run.attempts())
            for log in (run.workdir / "workers").glob("*.log") if blow.what == "kill" else ():
                log.unlink()
            run = Launched(folder, train=train, name=name)
    code = run.end()
    assert code == 0, f"exit {code} after {dealt}: {run.text()[-3000:]}"
    return dealt


def note_times(attempts, dealt, found):
    """Adds how long it took from each blow to the first step of the attempt after it, where that one had a step."""
    for blow, at in dealt:
        after = next((a for a in attempts if a["started"] > at), None)
        if not blow.ends_all and after and after["first_step"]:
            found["to_the_next_step"].append(round(after["first_step"] - at, 1))
            found["beyond_the_start"].append(round(after["started"] - at, 1))
            assert after["started"] - at <= blow.noticed_after + BEYOND, (blow, found)


KILLS = [Blow("kill", rank, when) for when in ("step", "start", "save", "step", "start", "save") for rank in (0, 1)]
STOPS = [Blow("stop", rank, when) for rank, when in ((1, "step"), (0, "step"), (1, "start"), (0, "save"))]
TROUBLES = [Blow(what, rank, "step") for what in ("raise", "exit", "hang") for rank in (1, 0)]
ASKED = [Blow("ask", *where) for where in ((1, "step"), (0, "save"), ("launch", "step"), ("launch", "start"),
                                           ("launch", "save"))]
GONE = [Blow("kill", "launch", when) for when in ("step", "start", "save")]


def never_comes():
    """One of two workers never starts: the other ends at --start_timeout, and names it."""
    from tests.distributed.processes import ends, free_ports, start, task
    found = {}
    with tempfile.TemporaryDirectory() as folder:
        for rank in (0, 1):
            ports, began = free_ports(2), time.monotonic()
            (_, output), code = ends([start(*TRAIN, "--start_timeout=5", "--workdir=run", cwd=folder, fresh=True,
                                            more=task(ports, rank))])[0]
            assert code == 76, output
            assert (f"waited 5 s (--start_timeout) for the others: no answer from worker {1 - rank} at "
                    "127.0.0.1:") in output
            found[f"worker {rank} alone, seconds"] = round(time.monotonic() - began, 1)
        run = Launched(pathlib.Path(folder), "--workers=2", "--stopped_timeout=1000", "--max_restarts=0",
                       train=(*TRAIN, "--start_timeout=5"), name="stopped")
        run.until(lambda: (run.workdir / "workers").exists() and len(run.workers(0)) == 2)
        began = time.monotonic()
        os.kill(run.workers(0)[1], signal.SIGSTOP)
        code = run.end()
        assert code == 1 and "worker 1 was stopped (SIGSTOP)" in run.text(), run.text()
        return {**found, "launch, a worker stopped before they met, seconds": round(time.monotonic() - began, 1)}


def fails_twice():
    """The same step fails in every attempt: the run ends with that step and the first worker's error."""
    with tempfile.TemporaryDirectory() as name:
        folder = pathlib.Path(name)
        (folder / "trouble.json").write_text(json.dumps({"rank": 1, "after": 12, "what": "raise", "always": True}))
        run = Launched(folder, train=(*TROUBLED, "--checkpoint_every=100"))
        code, last = run.end(), run.attempts()[-1]
        lines = [line for line in run.text().splitlines() if line.startswith("mirrorline launch: ")]
        assert code == 1 and len(run.attempts()) == 2 and last["first_failing_rank"] == 1, run.text()[-3000:]
        assert re.match(rf"mirrorline launch: it failed twice after step {last['step_reached']}: worker 1 ended with "
                        r"exit code 1: .*the image is truncated", lines[-1]), lines
        return {"reported": lines[-1], "attempts": 2}


def elastic():
    """A worker that cannot be started any more: the run goes on with the other, and with both once that is mended."""
    with tempfile.TemporaryDirectory() as name:
        folder, train = pathlib.Path(name), (*TRAIN, "--precision=float64")
        whole = Launched(folder, train=train, name="whole")
        assert whole.end() == 0, whole.text()[-2000:]
        run = Launched(folder, "--workers=1..2", train=train)
        wait_for_moment(run, 0, Blow("kill", 1, "step"), random.Random(0), (0.0, 2.0))
        gone, began = run.workers(0)[1], time.time()
        os.kill(gone, signal.SIGKILL)
        for attempt in (1, 2):  # Its machine is gone: as soon as it is there it is away again.
            run.until(lambda attempt=attempt: len(run.workers(attempt)) == 2)
            os.kill(run.workers(attempt)[1], signal.SIGKILL)
        run.until(lambda: len(run.workers(3)) == 1)
        alone = time.time()
        run.until(lambda: latest(run.workdir) > alone)
        time.sleep(0.5)
        os.kill(run.workers(3)[0], signal.SIGKILL)
        assert run.end() == 0, run.text()[-3000:]
        sizes = [a["workers"] for a in run.attempts()]
        assert sizes == [2, 2, 2, 1, 2], sizes
        assert_every_step_once(run.workdir, STEPS)
        one, two = ([r["loss"] for r in metrics(folder / n, "train")] for n in ("whole", "run"))
        difference = max(abs(a - b) / abs(a) for a, b in zip(one, two, strict=True))
        assert difference < 1e-9, difference
        return {"workers": sizes, "largest_relative_difference_of_a_loss": difference,
                "seconds_until_one_goes_on": round(run.attempts()[3]["first_step"] - began, 1),
                "steps_alone": run.attempts()[3]["step_reached"] - run.attempts()[3]["step_at_start"]}


def cells():
    """Yields (name, function, arguments)."""
    for what, blows, train in (("12 kills of workers", KILLS, TRAIN), ("4 workers stopped", STOPS, TRAIN),
                               ("6 workers failing or hung in Python", TROUBLES, TROUBLED),
                               ("5 times asked to stop", ASKED, TRAIN), ("3 launches killed", GONE, TRAIN)):
        yield f"launch, 2 workers: {what}, the same weights", survive, (blows, train)
    yield "launch: a worker that never starts", never_comes, ()
    yield "launch: the same step fails twice", fails_twice, ()
    yield "launch --workers=1..2: fewer, and more again", elastic, ()


if __name__ == "__main__":
    for cell, function, arguments in cells():
        if not sys.argv[1:] or sys.argv[1] in cell:
            print(json.dumps({cell: function(*arguments)}, indent=1), flush=True)
