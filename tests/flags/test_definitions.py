"""Every option of the configuration is a flag, and what was typed arrives in the configuration."""
import pytest
from absl import flags as absl_flags

import flags
from pipeline import config
from pipeline.errors import UsageError

EVERY_GROUP = tuple(config.GROUPS)


def parsed(*arguments, groups=EVERY_GROUP, only=()):
    """Returns flag values of one command after parsing."""
    flag_values = absl_flags.FlagValues()
    flags.define_options(flag_values, groups, only)
    flags.parse(list(arguments), flag_values, "train")
    return flag_values


def configured(*arguments):
    return flags.config_from_flags(parsed(*arguments))


def test_every_option_is_a_flag_with_the_default_of_the_configuration():
    flag_values = parsed()
    for name, field in config.options().items():
        value = flag_values[name].value
        assert (tuple(value) if isinstance(value, list) else value) == field.default, name


# One option of each type, with what the configuration must hold.
@pytest.mark.parametrize("argument, name, value", [
    ("--dataset=mnist", "dataset", "mnist"),
    ("--data_dir=/some/where", "data_dir", "/some/where"),
    ("--epochs=2.5", "epochs", 2.5),
    ("--batch_size=48", "batch_size", 48),
    ("--learning_rate=3e-4", "learning_rate", 3e-4),
    ("--augment=flip,crop:3", "augment", ("flip", "crop:3")),
    ("--augment=", "augment", ()),
    ("--devices=0,2", "devices", ("0", "2")),
    ("--optimizer=lamb", "optimizer", "lamb"),
    ("--nesterov", "nesterov", True),
    ("--nosync_batch_norm", "sync_batch_norm", False),
    ("--sync_batch_norm=false", "sync_batch_norm", False),
    ("--model_options=channels=32,identity=3", "model_options", ("channels=32", "identity=3")),
    ("--quiet", "verbosity", "quiet"),
    ("-quiet", "verbosity", "quiet"),
])
def test_a_value_reaches_the_configuration(argument, name, value):
    assert configured(argument).flat()[name] == value


def test_a_value_may_be_separate_from_its_flag_and_the_last_one_wins():
    assert configured("--batch_size", "16", "--batch_size=32").training.batch_size == 32


def test_a_shorthand_works_wherever_its_flag_does(tmp_path):
    file = tmp_path / "short.flags"
    file.write_text("--quiet\n")
    assert configured(f"--flagfile={file}").runtime.verbosity == "quiet"
    assert configured("--quiet", "--verbosity=debug").runtime.verbosity == "debug"
    with pytest.raises(UsageError, match="unknown flag '--quiet'"):
        parsed("--quiet", groups=("model",))


def test_two_commands_hold_different_values_of_one_flag():
    first, second = parsed("--steps=1"), parsed("--steps=2")
    assert (first["steps"].value, second["steps"].value) == (1, 2)


def test_a_command_offers_only_the_groups_and_options_it_names():
    flag_values = parsed("--seed=4", groups=("model",), only=("seed",))
    assert "model" in flag_values and "batch_size" not in flag_values
    assert flags.config_from_flags(flag_values).training.seed == 4
    with pytest.raises(UsageError, match="unknown flag '--batch_size'"):
        parsed("--batch_size=3", groups=("model",))


@pytest.mark.parametrize("groups, only, line", [
    (("modle",), (), "unknown group of options 'modle': did you mean 'model'"),
    ((), ("seeds",), "unknown option 'seeds': did you mean 'seed'"),
])
def test_a_command_with_unknown_options_is_an_error(groups, only, line):
    with pytest.raises(UsageError, match=line):
        parsed(groups=groups, only=only)


@pytest.mark.parametrize("arguments, line", [
    (["--epochs=abc"], "--epochs must be a number > 0 (epochs); found 'abc'"),
    (["--steps=2.5"], "--steps must be a whole number >= 1 (steps); found '2.5'"),
    (["--force=maybe"], "--force must be true or false; found 'maybe'"),
    (["--momentum=a: b"], "--momentum must be a number >= 0 and < 1; found 'a: b'"),
    (["--optimizer=adm"], "unknown --optimizer 'adm': did you mean 'adam'? known: adafactor, adam, adamw"),
    (["--batch-size=3"], "unknown flag '--batch-size': did you mean --batch_size?"),
    (["--epoch=3"], "unknown flag '--epoch': did you mean --epochs?"),
    (["--lr=1"], "unknown flag '--lr': did you mean --learning_rate?"),
    (["--nosync_batchnorm"], "unknown flag '--nosync_batchnorm': did you mean --nosync_batch_norm?"),
    (["--zzz"], "unknown flag '--zzz': 'mirrorline train --help' lists every flag"),
    (["epochs=3"], "unexpected argument 'epochs=3': did you mean --epochs=3?"),
    (["--steps=3", "now"], "unexpected argument 'now': 'train' takes only flags, each --name=value"),
    (["--epochs"], "--epochs needs a value"),
    (["--nonesterov=1"], "--nonesterov=1 does not take an argument"),
    (["--epochs=inf"], "--epochs must be > 0 epochs; found inf"),
    (["--learning_rate=nan"], "--learning_rate must be > 0; found nan"),
    (["--seed=2147483648"], "--seed must be >= 0 and <= 2147483647; found 2147483648"),
])
def test_wrong_command_lines_are_one_line_errors(arguments, line):
    with pytest.raises(UsageError) as caught:
        configured(*arguments)
    assert line in str(caught.value)
    assert "\n" not in str(caught.value)


def test_the_range_of_a_flag_of_one_command_is_in_the_error():
    flag_values = absl_flags.FlagValues()
    absl_flags.DEFINE_integer("trials", 1, "", lower_bound=1, upper_bound=9, flag_values=flag_values)
    for wrong in ("0", "10", "few"):
        with pytest.raises(UsageError, match=f"^--trials must be a whole number >= 1 and <= 9; found '{wrong}'$"):
            flags.parse([f"--trials={wrong}"], flag_values)


def test_given_options_are_those_on_the_command_line():
    assert flags.given_options(parsed("--steps=3", "--augment=flip")) == {"steps": 3, "augment": ["flip"]}
