"""Tables of the terminal at every width: no number is wrapped, nothing is wider than the window."""
import io
import re

import pytest

from pipeline.benchmark import comparison
from pipeline.benchmark import display as benchmark_screen
from pipeline.console_table import open_console, print_rows
from pipeline.evaluation import tables as evaluation_screen
from pipeline.sweep.tables import print_final
from pipeline.verification import report as verification_report
from tests.benchmark.reports import report, sweep
from tests.sweep.test_leaderboard import TRIALS, trial
from tests.verification.test_report import ROWS

NUMBERS = [["a class with a long name", "98.61%", "96.79% to 99.41%", "1,234,567"],
           ["[b]", "0.00012", "–", "12"]]
EVALUATED = {
    "headline": [{"name": "accuracy", "value": 0.9861, "low": 0.9679, "high": 0.9941, "interval": "95%, Wilson"}],
    "classes": ["cat", "a class with a long name"],
    "per_class": [{"name": name, "precision": 0.98765, "recall": 0.87654, "f1": 0.76543, "support": 1234567,
                   "roc_auc": 0.65432} for name in ("cat", "a class with a long name")],
    "averages": {kind: {"precision": 0.98765, "recall": 0.87654, "f1": 0.76543, "support": 1234567, "roc_auc": 0.65432}
                 for kind in ("macro", "weighted")},
    "confused_pairs": [], "compared": [], "notes": [],
    "calibration": {"before": {"ece": 0.01234}, "after": None, "fitted_on": "nothing"}}
CHANGED = [comparison.ComparedCell("cnn 28x28x1, float32, 2 workers of 4 replicas, batch 1,024", "slower", 12345.6,
                                   11234.5, 0.91, 0.905, 0.915)]
TABLES = {
    "rows": (lambda file: print_rows(open_console(file), ("class", "value", "95% interval", "count"),
                                     NUMBERS), ["98.61%", "96.79%", "99.41%", "1,234,567", "0.00012", "[b]"]),
    "evaluate": (lambda file: evaluation_screen.print_report(EVALUATED, file),
                 ["98.61%", "96.79%", "99.41%", "0.9877", "0.8765", "0.7654", "1,234,567", "0.6543"]),
    "sweep": (lambda file: print_final([*TRIALS, trial(123, 0.9712)], "accuracy", file),
              ["95.00%", "97.12%", "123", "finished"]),
    "verify": (lambda file: verification_report.show(ROWS, file),
               ["0.25", "1.0e-08", "2.0e-16", "VIOLATED", "differs"]),
    "benchmark": (lambda file: benchmark_screen.print_table(report(sweep(("float32", "mixed_bfloat16"), (1, 2))), file),
                  ["mixed_bfloat16"]),
    "compare": (lambda file: comparison.print_table(CHANGED, file), ["12,346", "11,234", "0.910", "0.905", "slower"]),
}


@pytest.mark.parametrize("columns", [28, 40, 80, 200])
@pytest.mark.parametrize("name", TABLES)
@pytest.mark.parametrize("terminal", [{"TERM": "dumb"}, {"TERM": "xterm-256color", "NO_COLOR": "1"}])
def test_tables_do_not_wrap_numbers(name, columns, terminal, monkeypatch):
    for key, value in {"COLUMNS": str(columns), "FORCE_COLOR": "1", **terminal}.items():
        monkeypatch.setenv(key, value)
    show, expected = TABLES[name]
    file = io.StringIO()
    show(file)
    text = re.sub(r"\x1b\[[0-9;]*m", "", file.getvalue())  # Bold is no colour.
    assert max(map(len, text.splitlines())) <= columns
    words = text.split()
    assert [word for word in expected if word not in words] == []
