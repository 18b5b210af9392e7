"""mirrorline verify: the user's own proof that this machine keeps what the product promises."""
import concurrent.futures
import contextlib
import json
import os
import sys
import tempfile
import time

from absl import flags as absl_flags

import flags
from pipeline.config import ExperimentConfig
from pipeline.distributed import cuda
from pipeline.errors import RunFailure, UsageError, unknown_name
from pipeline.options import augmentations, check_strengths
from pipeline.paths import check_file
from pipeline.quantities import counted, plural
from pipeline.runs import console_for

SUMMARY = "prove on this machine that replicas, kills and bad gradients change no result"
PLACE = 80
GROUPS = ("data", "model", "optimizer", "training", "runtime")
PARTS = ("reduction", "replicas", "resume", "infinite", "ragged")
MIXING = ("mixup", "cutmix")
SECONDS = 1800  # That one of the processes may take.
FEWEST_STEPS = 6  # For a checkpoint, steps after it that a kill can lose, and an end.


def define(flag_values):
    """Defines the flags of this command alone."""
    absl_flags.DEFINE_list("only", list(PARTS), f"parts to prove, of {', '.join(PARTS)}", flag_values=flag_values)
    absl_flags.DEFINE_integer("verify_steps", 10, "steps of each run, instead of --epochs or --steps; the data are "
                              "half as many batches of each split", flag_values=flag_values)
    flags.define_path("output", None, "also write what was found to this JSON file", flag_values)


def run(config: ExperimentConfig, flag_values):
    """Runs the command; returns the exit code.

    Raises:
      UsageError: options that training would refuse too, or a file that cannot be written.
      RunFailure: a claim does not hold, named in one line.
    """
    check_parts(flag_values.only)
    check_steps(flag_values.verify_steps)
    if flag_values.output:
        check_file("--output", flag_values.output)  # Before two minutes are spent.
    check_strengths(config.data.augment)
    began, steps = time.monotonic(), flag_values.verify_steps
    kind, replicas = choose_replicas(config)
    config = shortened(config, steps, replicas)

    console = console_for(config)
    console.info(f"verify  {config.data.dataset}, {config.model.model}, {config.runtime.precision}, "
                 f"{counted(replicas, f'{kind} replica')}")
    console.info(f"        {counted(steps, 'step')} of {counted(config.training.batch_size, 'example')} on "
                 f"{counted(config.data.subset, 'batch', 'batches')} of each split")
    rows = prove(config, kind, replicas, steps, flag_values.only, console)
    return report_result(rows, config, kind, replicas, time.monotonic() - began, flag_values.output)


def check_parts(only):
    """Raises UsageError for a part of --only that does not exist, or for none at all."""
    if not only:
        raise UsageError(f"--only is empty: give at least one of {', '.join(PARTS)}")
    for part in only:
        if part not in PARTS:
            raise unknown_name("part", part, PARTS)


def check_steps(steps):
    """Raises UsageError for a run that is too short to be killed in the middle."""
    if steps < FEWEST_STEPS:
        raise UsageError(f"--verify_steps={steps} is too short: a run is killed in its middle, so it needs a "
                         f"checkpoint, steps after it to lose, and an end; give at least {FEWEST_STEPS}")


def choose_replicas(config):
    """Returns ("GPU" or "CPU", replicas): as asked for, else every GPU, else the fewest CPU replicas that fit."""
    from pipeline.distributed import devices
    gpus = cuda.count_gpus()
    wanted = config.runtime.replicas
    if not wanted and not gpus and not config.runtime.devices:
        pairs = 2 if any(a.name in MIXING for a in augmentations(config.data)) else 1
        parts = config.optimizer.accumulate_steps * pairs
        wanted = next((n for n in range(2, devices.MOST_LOGICAL_CPUS + 1)
                       if config.training.batch_size % (n * parts) == 0), 2)
    kind, indices = devices.choose_devices(gpus, config.runtime.devices, wanted)
    return kind, len(indices)


def shortened(config, steps, replicas):
    """Returns the configuration of the proof: a run of a few steps that meets the end of an epoch."""
    batches = max(2, steps // 2)
    subset = min(config.data.subset or batches, batches)
    return config.replace(subset=subset, steps=steps, epochs=None, replicas=replicas, early_stopping_patience=0,
                          workdir=None, allow=())


def prove(config, kind, replicas, steps, only, console):
    """Runs the processes of a proof, in a folder that is gone afterwards; returns the rows, in the order of PARTS."""
    from pipeline.processes import Processes
    with tempfile.TemporaryDirectory(prefix="mirrorline-verify-") as folder, \
            Processes(SECONDS) as processes:
        proof = Proof(processes, folder, config, kind, replicas, steps, console)
        # Starting TensorFlow keeps one core busy; GPUs may not have the memory for two processes.
        executor = concurrent.futures.ThreadPoolExecutor(1 if kind == "GPU" else 2)
        try:
            waiting = [executor.submit(job, *values) for job, *values in proof.jobs(only)]
            for done in concurrent.futures.as_completed(waiting):
                done.result()
            return sorted(proof.rows(only), key=lambda row: PARTS.index(row.part))
        finally:
            executor.shutdown(wait=False, cancel_futures=True)


class Proof:
    """The processes of a proof and what they leave."""

    def __init__(self, processes, folder, config, kind, replicas, steps, console):
        self.processes, self.folder, self.config = processes, folder, config
        self.kind, self.replicas, self.steps, self.console = kind, replicas, steps, console
        self.failures, self.kills = {}, None

    def jobs(self, only):
        """Returns [(method, argument, ...)], the longest first."""
        here = [part for part in only if part not in ("resume", "replicas") or (part == "replicas" and
                                                                               self.replicas > 1)]
        jobs = [(self.kill,), (self.train,)] if "resume" in only else []
        jobs.insert(1, (self.measure, self.replicas, here))
        if "replicas" in here:
            jobs.insert(2, (self.measure, 1, ["replicas"]))
        return [job for job in jobs if job[-1]]

    def path(self, name):
        """Returns the path of something in the temporary folder."""
        return os.path.join(self.folder, str(name))

    @contextlib.contextmanager
    def job(self, name, parts):
        """Says when a job begins and ends; a failure counts against its parts."""
        began = time.monotonic()
        self.console.info(f"start   {name}")
        try:
            yield
        except RunFailure as failure:
            if self.processes.ended:
                return
            self.failures.update({part: str(failure) for part in parts})
        self.console.info(f"done    {name}: {time.monotonic() - began:.0f} s")

    def measure(self, replicas, parts):
        """Measures parts with a number of replicas, in a process of its own."""
        config = self.config.replace(replicas=replicas)
        os.mkdir(self.path(replicas))
        order = {"config": config.flat(), "parts": parts, "steps": self.steps, "folder": self.path(replicas)}
        with open(self.path(f"{replicas}.json"), "w", encoding="utf-8") as file:
            json.dump(order, file)
        with self.job(f"{counted(replicas, 'replica')}: {', '.join(parts)}", parts):
            order = self.path(f"{replicas}.json")
            self.processes.finish(self.processes.start("-m", "pipeline.verification.part_process", order))

    def command(self, workdir, *more):
        """Returns the arguments of Python that train as the user would, but short, in a directory of the proof."""
        from pipeline.verification import killing
        return ("-m", "launch", "train", *killing.train_flags(killing.settings(self.config, self.steps)),
                f"--workdir={workdir}", *more)

    def train(self):
        """Trains without interruption."""
        from pipeline.verification import killing
        with self.job("resume: uninterrupted", ["resume"]):
            killing.uninterrupted(self.processes, self.command, self.path("whole"))

    def kill(self):
        """Trains, killed twice."""
        from pipeline.verification import killing
        with self.job("resume: killed twice, started again", ["resume"]):
            self.kills = killing.killed_twice(self.processes, self.command, self.path("killed"))

    def rows(self, only):
        """Returns the rows of the parts asked for; a part whose process failed is violated."""
        from pipeline.verification.report import Row
        rows = [Row(part, "what its process found", None, 0.0, note=failure) for part, failure in self.failures.items()]
        measured = self.read(self.replicas, "rows.json") or []
        rows += [Row(**row) for row in measured if row["part"] not in self.failures]
        known = {row.part for row in rows}
        if "resume" in only and "resume" not in known:
            rows += self.compare_runs()
        if "replicas" in only and "replicas" not in known:
            rows += self.compare_replicas()
        missing = [part for part in only if part not in {row.part for row in rows}]
        return rows + [Row(part, "nothing", None, 0.0, "not measured: the reduction is wrong") for part in missing]

    def read(self, replicas, name):
        """Returns what a process left as JSON, or None."""
        from pipeline.files import read_json
        return read_json(os.path.join(self.path(replicas), name))

    def compare_runs(self):
        """Returns the rows of the part resume."""
        from pipeline.verification import killing
        unclaimed = "" if self.kind == "CPU" or self.config.runtime.deterministic else (
            "on a GPU it is claimed with --deterministic")
        return killing.compare_runs(self.path("whole"), self.path("killed"), self.kills, self.steps, unclaimed)

    def compare_replicas(self):
        """Returns the rows of the part replicas; none where its process found the reduction wrong."""
        import numpy as np

        from pipeline.verification.comparison import compare_replicas
        from pipeline.verification.report import Row
        if self.replicas == 1:
            return [Row("replicas", "1 replica against more", None, 0.0, "one replica was asked for, or is there")]
        facts = self.read(self.replicas, "facts.json")
        if not facts:
            return []
        with np.load(self.path("1/arrays.npz")) as one, np.load(self.path(f"{self.replicas}/arrays.npz")) as several:
            return compare_replicas(dict(one), dict(several), self.replicas, facts)


def report_result(rows, config, kind, replicas, seconds, output):
    """Shows the table, writes the file; returns 0, or raises RunFailure naming what is violated."""
    from pipeline.files import write_json
    from pipeline.verification.report import show, violations
    show(rows, sys.stdout)
    wrong = violations(rows)
    if output:
        write_json(output, {"holds": not wrong, "rows": [row.described() for row in rows], "config": config.flat(),
                            "device": kind, "replicas": replicas, "seconds": round(seconds, 1)})
    if wrong:
        raise RunFailure(f"VIOLATED: {wrong}")
    claimed = sum(not row.unclaimed for row in rows)
    print(f"{claimed} of {counted(claimed, 'claim')} {plural(claimed, 'holds', 'hold')}, in {seconds:.0f} s")
    return 0
