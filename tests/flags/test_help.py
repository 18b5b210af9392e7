"""The text of --help."""
import re

import pytest
from absl import flags as absl_flags

import flags
from pipeline import config


def help_text(width=None, define=None):
    flag_values = absl_flags.FlagValues()
    flags.define_options(flag_values, tuple(config.GROUPS))
    if define:
        define(flag_values)
    return flags.command_help("train", "train a model", flag_values, width)


def entry(text, name):
    """Returns the words of the entry of one flag, joined."""
    block = re.search(rf"^  --(?:\[no\])?{name}\b.*(?:\n {{28}}.*)*", text, re.MULTILINE)
    return " ".join(block[0].split())


@pytest.mark.parametrize("width", [60, 80, 100])
def test_no_line_is_wider_than_the_terminal(width):
    lines = help_text(width).splitlines()
    assert max(map(len, lines)) <= width
    assert max(map(len, lines)) > width - 6  # and the room is used


@pytest.mark.parametrize("columns, width", [("72", 72), ("300", 100), ("20", 60), ("", 80), ("wide", 80)])
def test_help_follows_the_width_of_the_terminal_within_limits(columns, width, monkeypatch):
    monkeypatch.setenv("COLUMNS", columns)
    if not columns.isdigit():
        monkeypatch.setattr("os.get_terminal_size", lambda file: (_ for _ in ()).throw(OSError()))
    assert help_text() == help_text(width)


def test_flags_are_grouped_in_the_order_of_the_configuration():
    titles = re.findall(r"^([A-Z]\w+)$", help_text(80), re.MULTILINE)
    assert titles == ["Data", "Model", "Optimizer", "Training", "Runtime", "General"]


def test_help_has_every_flag_with_its_meaning():
    text = help_text(80)
    for name, field in config.options().items():
        assert " ".join(field.metadata["help"].split()) in entry(text, name), name


@pytest.mark.parametrize("name, shown", [
    ("batch_size", "--batch_size=N examples of one optimizer step, over all replicas and micro-batches "
                   "(examples; >= 1; default 64)"),
    ("momentum", "default 0.9 (sgd, rmsprop, lars), 0.95 (muon) (>= 0 and < 1)"),
    ("schedule", "learning rate over the run (constant | cosine | linear | polynomial | step | "
                 "one-cycle; default constant)"),
    ("sync_batch_norm", "--[no]sync_batch_norm"),
    ("force", "(default off)"),
    ("image_size", "(pixels; >= 1; default none)"),
    ("step_decay_at", "(default 0.5,0.75)"),
    ("seed", "(>= 0 and <= 2147483647; default 0)"),
    ("data_dir", "--data_dir=TEXT folder of prepared TensorFlow Datasets; default ~/tensorflow_datasets"),
])
def test_a_flag_shows_unit_range_and_default(name, shown):
    assert shown in entry(help_text(80), name)


def test_a_range_is_not_broken_over_two_lines():
    assert not re.search(r"[ (](>=|<=|>|<)$", help_text(80), re.MULTILINE)


def test_help_lists_the_defaults_of_the_default_data_set():
    text = " ".join(help_text(80).split())
    assert "--dataset=digits brings its own defaults (recipe digits.flags):" in text
    assert "--model=cnn" in text and "--schedule=one-cycle" in text
    assert "A flag that is given overrides them" in text


def test_a_command_s_own_flags_come_first_with_their_values():
    def define(flag_values):
        absl_flags.DEFINE_enum("table", "wide", ["wide", "narrow"], "form of the table", flag_values=flag_values)

    text = help_text(80, define)
    assert "form of the table (wide|narrow; default wide)" in entry(text, "table")
    assert text.index("Of train alone") < text.index("\nData\n")
