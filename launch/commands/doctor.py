"""mirrorline doctor: whether training would work on this machine, what is missing otherwise, and what runs on GPUs."""
import importlib.metadata
import os
import platform
import sys
import textwrap
from collections.abc import Sequence

from absl import flags as absl_flags

from flags import given_options
from pipeline.config import ExperimentConfig
from pipeline.distributed import machine
from pipeline.errors import UsageError
from pipeline.processor import cpu_features
from pipeline.quantities import counted
from pipeline.verification import installation
from pipeline.verification.installation import OK, PROBLEM, WARNING, Finding

# Imports inside functions: `--help` and wrong usage answer without TensorFlow.

SUMMARY = "check whether training would work on this machine, and report what is missing; what GPUs would copy"
PLACE = 100
GROUPS = ("data", "model", "optimizer", "training", "runtime")
OF_INPUT = ("columns", "image_root", "image_size", "resize", "interpolation", "validation_split", "fold", "subset",
            "augment", "augment_on", "memory_budget", "skip_unreadable", "cache_dir", "batch_size", "seed", "extension")
OF_MACHINE = ("dataset", "data_dir", "workdir", "replicas", "devices", "cross_device_reduction", "verbosity")

COLORS = {OK: "green", WARNING: "yellow", PROBLEM: "bold red"}
WIDTH, INDENT = 100, 22  # Columns of a line, and those before its text.


def define(flag_values: absl_flags.FlagValues) -> None:
    """Defines the flag of this command alone."""
    absl_flags.DEFINE_boolean(
        "placement", False, "list what the step and the evaluation of a training with these flags would copy between a "
        "GPU and its host, and which operations have no GPU kernel; works without a GPU", flag_values=flag_values)


def run(config: ExperimentConfig, flag_values: absl_flags.FlagValues) -> int:
    """Prints the findings; returns 0 where training would work and 1 where it would not."""
    given = given_options(flag_values)
    if flag_values.placement:
        return show_placement(config)
    for name in given:
        if name not in OF_MACHINE and name not in OF_INPUT:
            raise UsageError(f"--{name} belongs to what a GPU would copy: give --placement too, or leave it out")
    if "dataset" not in given:
        stray = [name for name in OF_INPUT if name in given]
        if stray:
            raise UsageError(f"--{stray[0]} belongs to a data set whose input is measured: give --dataset too")
    findings = examine(config, "dataset" in given)
    print_report(findings)
    return 1 if any(finding.state == PROBLEM for finding in findings) else 0


def show_placement(config: ExperimentConfig) -> int:
    """Prints what a training would copy between a GPU and its host; returns 1 where data is, or XLA lacks a kernel."""
    from pipeline.runs import console_for
    from pipeline.verification import gpu_step
    found = gpu_step.findings(gpu_step.trace(config, console_for(config)), config.runtime.xla == "on")
    problems = sum(finding.state == PROBLEM for finding in found)
    print_lines(found, f"On GPUs {counted(problems, 'problem')} to solve." if problems else
                "On GPUs nothing but numbers would be copied beside the batches.", bool(problems))
    return 1 if problems else 0


def examine(config: ExperimentConfig, measures_input: bool = False) -> list[Finding]:
    """Returns all findings about this machine for the options of a configuration.

    Args:
      config: the options.
      measures_input: whether to open its data set and measure how fast batches of it are made.
    """
    requires_python, requirements = installation.declared_requirements()
    cpu = installation.check_cpu(cpu_features(), len(os.sched_getaffinity(0)), platform.machine())
    findings = [installation.check_python(platform.python_version(), requires_python),
                *installation.check_packages(requirements, importlib.metadata.version),
                cpu, installation.check_memory(*machine.memory())]
    if cpu.state != PROBLEM:
        findings.append(installation.check_onednn(config.data.cache_dir))
    if cpu.state != PROBLEM:  # Otherwise loading TensorFlow would end the process.
        tensorflow = installation.check_tensorflow()
        findings.append(tensorflow)
        if tensorflow.state == OK:
            gpus = installation.check_gpus()
            findings += [*gpus, installation.check_replicas(config.runtime)]
            if measures_input:
                from pipeline.verification import input_rate
                findings += input_rate.check_input(config, [gpu.text for gpu in gpus if gpu.name != "GPU"])
    workdir = config.runtime.workdir or "runs"
    return [*findings, installation.check_data_dir(config.data.data_dir), installation.check_workdir(workdir),
            installation.check_disk(workdir)]


def print_report(findings: Sequence[Finding]) -> None:
    """Prints the findings about this machine."""
    problems = sum(finding.state == PROBLEM for finding in findings)
    print_lines(findings, f"Training will not work here: {counted(problems, 'problem')} to solve." if problems else
                "Training will work here.", bool(problems))


def print_lines(findings: Sequence[Finding], end: str, ill: bool) -> None:
    """Prints findings, aligned, and a last line, of a problem or not; in colour on a terminal."""
    lines = [(line, finding.state) for finding in findings for line in report_lines(finding)]
    if not sys.stdout.isatty():
        print("\n".join([*(line for line, _ in lines), end]))
        return
    from rich.console import Console  # Rich takes longer to load than `mirrorline doctor --help`.
    from rich.text import Text

    console = Console(highlight=False)
    for line, state in lines:
        text = Text(line)
        text.stylize(COLORS[state], 0, 8)
        console.print(text, soft_wrap=True)
    console.print(end, style=COLORS[PROBLEM if ill else OK])


def report_lines(finding: Finding) -> list[str]:
    """Returns the lines of a finding: state, name, text, and below it the remedy."""
    text = textwrap.wrap(finding.text, WIDTH - INDENT, break_long_words=False, break_on_hyphens=False) or [""]
    remedy = [f"remedy: {finding.remedy}"] if finding.remedy else []
    return [f"{finding.state:<8}{finding.name:<14}{text[0]}", *(" " * INDENT + line for line in text[1:] + remedy)]
