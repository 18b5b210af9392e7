"""Stands in for a training that takes seconds: writes the files of a run and ends according to its learning rate.

    python stand_in.py train --learning_rate=... --workdir=...

Its accuracy after the evaluation i of 4 is the learning rate plus i hundredths. 0.9 diverges, 0.8 is wrong use, 0.7 is
killed. --behaviour: `wait` continues after the second evaluation once a file called `go` exists, `slow` ends only by a
signal, `meet` continues when another trial runs at the same time, `busy` is occupied at the second evaluation and would
save after it. It handles signals as a training does.
"""
import json
import os
import signal
import sys
import time

sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__)))))
from pipeline.training.preemption import StopRequest  # noqa: E402

STEPS, EVALUATIONS = 40, 4


def main(flags):
    """Runs; ends the process."""
    with StopRequest() as asked:
        train(flags, asked)


def train(flags, asked):
    """Writes the files of a run; asked: StopRequest."""
    folder, rate = flags["workdir"], float(flags["learning_rate"])
    ends = {0.9: "the loss diverged in steps 1 to 2 (loss nan)", 0.8: "unknown model 'cnm'"}
    if rate in ends:
        print(f"mirrorline train: {ends[rate]}", file=sys.stderr)
        sys.exit(1 if rate == 0.9 else 2)
    if rate == 0.7:
        os.kill(os.getpid(), signal.SIGKILL)
    os.makedirs(folder, exist_ok=True)
    path = os.path.join(folder, "metrics.jsonl")
    with open(os.path.join(folder, "config.json"), "w", encoding="utf-8") as file:
        json.dump({"config": {"batch_size": 10}, "plan": {"total_steps": STEPS},
                   "data": {"num_train": 100, "num_validation": 11}}, file)
    done = 0
    if os.path.exists(path):
        with open(path, encoding="utf-8") as file:
            done = len(file.read().splitlines())
    for number in range(done + 1, EVALUATIONS + 1):
        with open(path, "a", encoding="utf-8") as file:
            file.write(json.dumps({"kind": "evaluation", "step": number * STEPS // EVALUATIONS, "split": "validation",
                                   "loss": 1 - rate, "accuracy": rate + number / 100, "examples": 11}) + "\n")
        wait(flags.get("behaviour"), folder, number, asked)
        if asked():
            sys.exit(75)


def wait(behaviour, folder, number, asked):
    """Waits for the condition of a behaviour."""
    around = os.path.dirname(folder)
    conditions = {
        "wait": lambda: number < 2 or os.path.exists(os.path.join(around, "go")), "slow": lambda: number < 2,
        "busy": lambda: number != 2,
        "meet": lambda: sum(name.startswith("trial-") and not name.endswith(".log") for name in os.listdir(around)) > 1}
    deadline = time.monotonic() + 600
    while behaviour in conditions and not conditions[behaviour]() and time.monotonic() < deadline:
        if asked() and behaviour != "busy":
            break
        time.sleep(0.01)


if __name__ == "__main__":
    main(dict(argument.removeprefix("--").split("=", 1) for argument in sys.argv[2:]))
