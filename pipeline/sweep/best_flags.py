"""best.flags: the flags of the best trial, and what it reached. Standard library only."""
import textwrap
from collections.abc import Iterable, Mapping
from typing import Any

from pipeline.config import ExperimentConfig, defaults, options
from pipeline.files import write_text
from pipeline.options import FREE
from pipeline.quantities import counted
from pipeline.sweep.records import Trial
from pipeline.sweep.space import value_text
from pipeline.sweep.tables import epochs_text, figure, in_epochs, values_text

WIDTH = 120
# Where and how this machine ran it. data_dir stays, or the data would not be found.
OF_THE_MACHINE = ("workdir", "devices", "replicas", "allow", "verbosity", "profile", "hang_timeout", "steps_per_loop")


def flag(name: str, value: Any) -> str:
    """Returns an option as a flag: --batch_size=64, --nesterov, --nosync_batch_norm."""
    if isinstance(value, bool):
        return f"--{name}" if value else f"--no{name}"
    return f"--{name}={value_text(value)}"


def lines(config: ExperimentConfig, given: Iterable[str]) -> list[str]:
    """Returns the flags that repeat a run: the options that were given, and others whose value is not the default."""
    flat, usual, names = config.flat(), defaults(), set(given)
    return [flag(name, flat[name]) for name, field in options().items()
            if name not in OF_THE_MACHINE and flat[name] is not None and (
                name in names or name == "dataset"
                or (flat[name] != usual[name] and field.metadata["resume"] != FREE))]


def comment(trial: Trial, settings: Mapping[str, Any], count: int, test_accuracy: float | None,
            held_out: bool = True) -> list[str]:
    """Returns lines of comment on what the best trial reached and how.

    Args:
      trial: the best trial.
      settings: of the sweep.
      count: number of its trials.
      test_accuracy: at the end of that run, or None where the data have no split that selected nothing.
      held_out: the validation split was held out of training, instead of being one of the data set's own.
    """
    metric, share = settings["metric"], settings["flags"]["validation_split"]
    where = f" held out of training (--validation_split={share:g})" if held_out else ""
    text = (f"Trial {trial.number} of {count} of a {settings['search']} sweep over {values_text(settings['space'])}. "
            f"Reached: validation {metric} {figure(metric, trial.last[metric])} of "
            f"{counted(trial.examples or 0, 'example')}{where} after {in_epochs(epochs_text(trial))}; the best of "
            "those trials, so a little optimistic.")
    if test_accuracy is not None:
        text += f" Test accuracy of that run {test_accuracy:.2%}; it selected nothing."
        if held_out:
            text += " Without --validation_split a run trains on those examples too, and watches the test split."
    return [f"# {line}" for line in textwrap.wrap(text, WIDTH - 2, break_on_hyphens=False, break_long_words=False)]


def write(path: str, config: ExperimentConfig, given: Iterable[str], *about: Any) -> None:
    """Writes the file; `about` are the arguments of `comment`."""
    write_text(path, "\n".join([*comment(*about), *lines(config, given)]) + "\n")
