"""The leaderboard: ranks, windows of every width, and the flag file of the best trial."""
import io

import pytest
import rich.console

from pipeline.config import ExperimentConfig
from pipeline.sweep import best_flags
from pipeline.sweep.leaderboard import PlainLeaderboard
from pipeline.sweep.records import FAILED, FINISHED, PRUNED, RUNNING, Trial, best, ranked
from pipeline.sweep.tables import leaderboard_table, print_final

NAMES = ("learning_rate", "batch_size", "label_smoothing", "augment", "schedule")


def trial(number, accuracy, loss=0.1, status=FINISHED):
    """Returns a Trial of 4 epochs."""
    values = dict(zip(NAMES, (0.00316, 64, 0.1235, ["crop:3", "rotate:10"], "one-cycle"), strict=True))
    seen = [] if accuracy is None else [{"step": 40, "epoch": 4.0, "accuracy": accuracy, "loss": loss}]
    return Trial(number, values, status, seen, 11, 4.0, message="the loss diverged" if status == FAILED else None)


TRIALS = [trial(1, 0.9), trial(2, None, status=FAILED), trial(3, 0.95, 0.3), trial(4, 0.95, 0.2),
          trial(5, 0.99, status=PRUNED), trial(6, 0.5, status=RUNNING)]


def shown(width, most=None, now=None):
    """Returns the lines of the table at a width."""
    text = io.StringIO()
    rich.console.Console(file=text, width=width).print(leaderboard_table(TRIALS, "accuracy", width, now, most))
    return text.getvalue().splitlines()


def test_ties_are_ranked_by_the_smaller_loss():
    assert [one.number for one in ranked(TRIALS, "accuracy")] == [4, 3, 1, 6, 5, 2]
    assert [one.number for one in ranked(TRIALS, "loss")] == [1, 4, 3, 6, 5, 2]
    assert best(TRIALS, "accuracy").number == 4 and best(TRIALS[4:], "accuracy") is None


@pytest.mark.parametrize("width", [40, 60, 80, 120])
def test_it_fits_every_window_with_one_line_a_trial(width):
    lines = shown(width, most=20, now={6: 1.3})
    assert max(map(len, lines)) <= width
    rows = [line.split() for line in lines if "%" in line or "failed" in line]
    assert len(rows) == 6 and rows[0][:5] == ["1", "4", "95.00%", "4", "finished"]
    assert rows[3][:4] == ["6", "50.00%", "1.3/4", "running"] and rows[5][:4] == ["2", "–", "–", "failed"]
    assert (rows[0][5:] == ["0.00316", "64", "0.1235", "crop:3,rotate:10", "one-cycle"]) is (width == 120)
    assert any("learning_rate=0.0" in line for line in lines) is (width in (60, 80))


def test_running_trials_are_shown_and_hidden_ones_counted():
    lines = shown(120, most=3)
    assert [line.split()[0] for line in lines if "95.00%" in line] == ["1", "2"]
    assert any("running" in line for line in lines) and any("and 3 more" in line for line in lines)


def test_the_final_table_has_every_value_and_the_failures():
    text = io.StringIO()
    print_final(TRIALS, "accuracy", text)
    assert "trial 2 failed: the loss diverged\n" in text.getvalue() and "crop:3,rotate:10" in text.getvalue()
    assert "\x1b" not in text.getvalue()


def test_control_characters_are_replaced():
    bad = Trial(1, {"augment": "\x1b[2Jgone"}, FAILED, message="it said \x1b]0;owned\x07 and died")
    text, lines = io.StringIO(), []
    print_final([bad], "accuracy", text)
    plain = PlainLeaderboard("accuracy", 1, lines.append)
    plain.begin(bad)
    plain.end(bad, [bad])
    output = text.getvalue() + "".join(lines)
    assert "it said" in output and "gone" in output and "\x1b" not in output and "\x07" not in output


def test_the_flag_file_has_the_settings_and_the_result(tmp_path):
    config = {"dataset": "digits", "epochs": 4.0, "schedule": "constant", "nesterov": True, "workdir": "x",
            "verbosity": "quiet", "data_dir": "/data", "learning_rate": 0.00316, "augment": ("crop:3",),
            "validation_split": 0.1, "replicas": 2}
    settings = {"metric": "accuracy", "search": "random", "space": {"learning_rate": "log:1e-4..1e-1"},
                "flags": {"validation_split": 0.1}}
    path = tmp_path / "best.flags"
    best_flags.write(path, ExperimentConfig.from_flat(config), config, trial(3, 0.95), settings, 20, 0.94)
    lines = path.read_text().splitlines()
    comment = " ".join(line.removeprefix("# ") for line in lines if line.startswith("#"))
    assert max(map(len, lines)) <= 120 and comment.startswith("Trial 3 of 20 of a random sweep over learning_rate=log:")
    assert "validation accuracy 95.00% of 11 examples held out" in comment
    assert "Test accuracy of that run 94.00%" in comment
    assert [line for line in lines if not line.startswith("#")] == [
        "--dataset=digits", "--data_dir=/data", "--validation_split=0.1", "--augment=crop:3", "--learning_rate=0.00316",
        "--schedule=constant", "--nesterov", "--epochs=4"]
