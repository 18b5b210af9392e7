"""The flag file of the best trial: what it was told, and what it reached. Standard library only."""
import textwrap

from pipeline.config import options
from pipeline.files import write_text
from pipeline.options import FREE
from pipeline.quantities import counted
from pipeline.sweep.leaderboard import epochs_text, figure, in_epochs, values_text
from pipeline.sweep.space import value_text

WIDTH = 120
# What says where and how this machine ran it; data_dir stays, or the data would not be found.
OF_THE_MACHINE = ("workdir", "devices", "replicas", "allow", "verbosity", "profile", "hang_timeout", "steps_per_loop")


def flag(name, value):
    """Returns an option as a flag: --batch_size=64, --nesterov, --nosync_batch_norm."""
    if isinstance(value, bool):
        return f"--{name}" if value else f"--no{name}"
    return f"--{name}={value_text(value)}"


def lines(config, told):
    """Returns the flags that make a run anew: those that were given, and those without which it would be another run.

    Args:
      config: ExperimentConfig of the run.
      told: {option name: value} that was given, and what the data set brings with it.
    """
    flat = config.flat()
    wanted = [name for name, field in options().items() if name not in OF_THE_MACHINE and flat[name] is not None
              and (name in told or (flat[name] != field.default and field.metadata["resume"] != FREE)
                   or name == "dataset")]
    return [flag(name, flat[name]) for name in wanted]


def comment(trial, settings, count, test_accuracy, held_out=True):
    """Returns what the best trial reached and how, as lines of comment.

    Args:
      trial: Trial.
      settings: of the sweep.
      count: number of its trials.
      test_accuracy: of that run at its end, or None where the data have no part that chose nothing.
      held_out: whether the validation split was held out of training, not one of the data set's own.
    """
    metric, share = settings["metric"], settings["flags"]["validation_split"]
    where = f" held out of training (--validation_split={share:g})" if held_out else ""
    text = (f"Trial {trial.number} of {count} of a {settings['search']} sweep over {values_text(settings['space'])}. "
            f"Reached: validation {metric} {figure(metric, trial.last[metric])} of "
            f"{counted(trial.examples, 'example')}{where} after {in_epochs(epochs_text(trial))}; the best of those "
            "trials, so a little optimistic.")
    if test_accuracy is not None:
        text += f" Test accuracy of that run {test_accuracy:.2%}; it chose nothing."
        if held_out:
            text += (" Without --validation_split a run trains on those examples too, and watches the test split.")
    return [f"# {line}" for line in textwrap.wrap(text, WIDTH - 2, break_on_hyphens=False, break_long_words=False)]


def write(path, config, told, *about):
    """Writes the file; `about` is what `comment` takes."""
    write_text(path, "\n".join([*comment(*about), *lines(config, told)]) + "\n")
