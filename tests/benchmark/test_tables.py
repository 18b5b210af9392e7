"""CSV and Markdown: every figure, and marks on failed and halved cells."""
import csv
import io

import pytest

from pipeline.benchmark.page import markdown
from pipeline.benchmark.tables import (
    COLUMNS,
    csv_text,
    label,
    machine_facts,
    more,
    number,
    percent,
    problems,
    remarks,
    times,
    varying,
)
from tests.benchmark.reports import cell, failed, report, sweep


@pytest.mark.parametrize("function, value, text", [
    (number, 1234567.8, "1,234,568"), (number, 812.4, "812"), (number, 12.345, "12.3"), (number, 0.01234, "0.0123"),
    (number, 0, "0"), (number, None, "–"), (number, 1e-12, "0.000000"), (times, 1.834, "1.83x"),
    (times, 0.0612, "0.061x"),
    (times, 17.31, "17.3x"), (times, None, "–"), (percent, 0.0131, "1.3%"), (percent, 0.0999, "10%"),
    (percent, 0.973, "97%"), (percent, 0.0, "0.0%"), (percent, None, "–"),
])
def test_figures_are_rounded_for_reading(function, value, text):
    assert function(value) == text


def test_csv_has_a_row_for_each_cell():
    cells = report([cell(rate=812.5, note='a "note", with comma'), failed()])["cells"]
    rows = list(csv.DictReader(io.StringIO(csv_text(cells))))
    assert [row["status"] for row in rows] == ["ok", "failed"]
    first = rows[0]
    assert float(first["examples_per_second"]) == 812.5 and first["note"] == 'a "note", with comma'
    assert list(map(float, first["repeats"].split())) == cells[0]["repeats"]
    assert float(first["step_ms_p99"]) == cells[0]["step_ms"]["p99"]
    assert float(first["split_ms_backward"]) == cells[0]["split_ms"]["backward"]
    assert float(first["spread_low"]) == cells[0]["spread"][0]
    assert float(first["peak_memory_mib_host"]) == cells[0]["peak_memory_mib"]["host"]
    assert float(first["ceiling_share"]) == cells[0]["ceiling_share"] and first["peak_memory_mib_device"] == ""
    assert rows[1]["error"].startswith("ResourceExhausted") and rows[1]["examples_per_second"] == ""
    assert csv_text([]).startswith("model,image_size,precision,workers,replicas,batch_size,xla,status,")


def table_of(text):
    rows = [line for line in text.splitlines() if line.startswith("|")]
    return [[part.strip() for part in row.replace("\\|", "¦").strip("|").split("|")] for row in rows]


def test_markdown_has_the_figures_of_every_cell():
    head, ruler, *rows = table_of(markdown(report(sweep(("float32", "mixed_bfloat16"), (1, 2), (64, 128), rate=800.0))))
    assert head == [name for name in COLUMNS if name != "workers"]
    assert len(rows) == 8 and all(len(row) == len(head) == len(ruler) for row in rows)
    assert rows[0] == ["cnn", "28x28x1", "float32", "1", "64", "off", "800 (776 to 817)", "80.0 / 84.8 / 105", "–", "–",
                       "68%", "1.3%", "860", ""]
    assert rows[-1][8:10] == ["1.00x", "100% / 100%"] and rows[-1][-1] == "**emulated**"


def test_markdown_lists_failures_halved_batches_and_the_machine():
    cells = [cell(), failed("OOM | on\n2 lines", precision="mixed_float16"),
             cell(batch_size=4096, fitted_batch_size=1024), failed(status="does_not_fit", model="a|b<c>")]
    text = markdown(report(cells, complete=False))
    _, _, *rows = table_of(text)
    assert [row[-1] for row in rows] == ["", "**failed**", "**halved**", "**does not fit**"]
    assert rows[2][4] == "1,024 (of 4,096)" and rows[3][0] == "a¦b\\<c\\>"
    assert "- **cnn, 28x28x1, mixed_float16, 1 replica, batch 64, XLA off: failed: OOM \\| on 2 lines**" in text
    assert "a batch of 4,096 does not fit into memory; measured with 1,024" in text
    assert "This benchmark was interrupted" in text
    for fact in ("Xeon(R) Platinum 8481C, 2 cores, 23.4 GiB", "tensorflow 2.21.0", "float32 251 GFLOP/s",
                 "`mirrorline benchmark --model=cnn --batch_sizes=16,64`", "--augment=flip,crop:3", "avx512f"):
        assert fact in text


def test_emulated_precisions_and_shared_cores_are_caveats():
    lines = remarks(report(sweep(("float32", "mixed_bfloat16"), (1, 2))))
    assert lines == ["mixed_bfloat16 is emulated on this hardware and slower: 1.92 times as long as float32 (median).",
                     "Replicas are logical devices that share the same cores: the ideal is 1x the speed of one "
                     "replica, not N times, and efficiency is the ratio of examples/s."]
    (line,) = remarks(report([cell(precision="mixed_float16")]))
    assert "no float32 cell to compare with" in line
    assert remarks(report(sweep(("float32", "mixed_float16"), (1, 2), gpu=True), gpus=["NVIDIA H100"])) == []
    (line,) = remarks(report([cell(), cell(precision="mixed_bfloat16", rate=900.0)]))
    assert "is emulated on this hardware: 1.12x the speed of float32 here" in line
    assert remarks(report([cell(note="warm"), cell(note="cold; wet\nwarm", batch_size=2)])) == ["warm", "cold; wet"]


def test_several_workers_have_a_column_and_the_slowest_is_shown():
    cells = report(sweep(workers=(1, 2), batches=(64, 128)))["cells"]
    head, _, *rows = table_of(markdown(report(cells)))
    assert head == list(COLUMNS) and [row[3] for row in rows] == ["1", "1", "2", "2"]
    assert rows[-1][10] == "101% / 97%"
    lines = remarks({"cells": cells})
    assert lines[0].startswith("Workers are processes of this machine that share the same cores: the ideal is 1x")
    assert "Measurements of several workers are the chief's" in lines[1] and len(lines) == 2
    shown = {name: text(cells[-1]) for name, text in more(cells).items()}
    assert shown["slowest worker, examples/s"] == f"1: {number(0.99 * cells[-1]['examples_per_second'])}"
    assert not [name for name in more(report(sweep())["cells"]) if "worker" in name]
    row = list(csv.DictReader(io.StringIO(csv_text(cells))))[-1]
    assert (row["workers"], row["slowest_worker_rank"], row["statistics_reductions_count"]) == ("2", "1", "18")


def test_a_label_names_what_differs_and_nothing_else():
    cells = sweep(("float32", "mixed_bfloat16"), (1, 2))
    assert varying(cells) == ["precision", "replicas"]
    assert label(cells[-1], varying(cells)) == "mixed_bfloat16, 2 replicas"
    assert label(cells[0], []) == "cnn"
    assert label(cells[0]) == "cnn, 28x28x1, float32, 1 replica, batch 64, XLA off"
    one, two = sweep(workers=(1, 2))
    assert varying([one, two]) == ["workers"] and (label(one, ["workers"]), label(two, ["workers"])) == (
        "1 worker", "2 workers")
    assert label(two) == "cnn, 28x28x1, float32, 2 workers, 1 replica, batch 64, XLA off"


def test_equal_gpus_are_counted_and_unknown_facts_left_out():
    facts = dict(machine_facts(report([], gpus=["NVIDIA H100"] * 8 + [{"name": "NVIDIA L4"}])))
    assert facts["GPUs"] == "8 x NVIDIA H100, NVIDIA L4"
    assert dict(machine_facts({"cells": []})) == {"CPU": "unknown", "GPUs": "none"}
    assert problems({"cells": []}) == []
