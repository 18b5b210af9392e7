"""The flags of `mirrorline benchmark` that set what its figures are projected to."""
from typing import Any

from absl import flags as absl_flags

from pipeline.errors import UsageError

MOST_GPUS = 1024  # Projected to by default.


def define(flag_values: absl_flags.FlagValues) -> None:
    """Defines the flags."""
    def define_link(name, text):
        absl_flags.DEFINE_string(name, None, text, flag_values=flag_values)

    absl_flags.DEFINE_integer("project", MOST_GPUS, "project the efficiency up to this many GPUs; 0: do not",
                              flag_values=flag_values)
    define_link("link_inside", "--project: link of each GPU inside a machine, nominal GB/s in one "
                "direction:microseconds, e.g. 450:3.4; default two known kinds of machine")
    define_link("link_between", "--project: link of each machine, nominal GB/s in one direction:microseconds, "
                "e.g. 50:14")
    absl_flags.DEFINE_integer("gpus_per_machine", 8, "--project: GPUs of a machine, where links are given",
                              flag_values=flag_values)
    absl_flags.DEFINE_float("link_efficiency", 0.8, "--project: share of a link's nominal bandwidth that a reduction "
                            "reaches", flag_values=flag_values)
    absl_flags.DEFINE_float("project_step_ms", 0.0, "--project: what one GPU would compute a step in (ms); 0: as long "
                            "as it took here", flag_values=flag_values)


def check(flag_values: absl_flags.FlagValues) -> None:
    """Raises UsageError for values that cannot be projected to."""
    for name, least in (("project", 0), ("gpus_per_machine", 1), ("project_step_ms", 0)):
        value: Any = flag_values[name].value
        if not least <= value < 1e9:
            raise UsageError(f"--{name} must be a number from {least:g}; found {value:g}")
    if flag_values.project == 1:
        raise UsageError("--project=1: give at least 2 GPUs")
    if not 0 < flag_values.link_efficiency <= 1:
        raise UsageError(f"--link_efficiency={flag_values.link_efficiency:g}: give a share above 0 and at most 1, such "
                         "as 0.8")
