"""The page, read as by a browser: complete, self-contained, with every figure of the report."""
import os

import pytest

from pipeline.benchmark import page, plots, projected, tables
from pipeline.benchmark.derived import is_measured
from tests.benchmark.reports import cell, failed, report, sweep
from tests.pages import Reader

HALF = ("float32", "mixed_bfloat16")


def read(of):
    return read_text(page.page(of))


def read_text(text):
    reader = Reader(text)
    assert reader.loaded == [] and not reader.tags & {"link", "img", "iframe"}
    assert not reader.scripts and "default-src 'none'" in text and "script-src" not in text
    return reader


def test_a_full_report_has_every_figure_and_every_plot(tmp_path):
    cells = sweep(HALF, (1, 2), (64, 128))
    cells += [failed(precision="mixed_float16"), cell(batch_size=512, fitted_batch_size=256)]
    whole = report(cells, most=1024)
    paths = page.write_all(whole, tmp_path)
    assert sorted(os.listdir(tmp_path)) == ["benchmark.csv", "benchmark.html", "benchmark.md"] and len(paths) == 3
    reader = read_text((tmp_path / "benchmark.html").read_text())
    shown = [text(c) for c in cells for text in tables.columns(cells).values()]
    shown += [text(c) for c in cells if is_measured(c) for text in tables.more(cells).values()]
    assert set(shown) <= {*reader.cells, ""}
    assert [label.split(":")[0] for label in reader.plot_labels] == [
        "Throughput against batch size", "Speed-up over float32", "Scaling over replicas", "Step time breakdown",
        "Peak memory", "Lines", "Curve"]
    for words in ("examples/s", "batch size (examples, log scale)", "peak memory (MiB)",
                  "ideal: 1x, the replicas share the same cores", "float32 (1x)",
                  "mixed_bfloat16, emulated", "backward", "input wait", "79.5 ms",
                  "A projection, not a measurement:", "InfiniBand NDR 400", "2(n-1)/n", "not N times",
                  "hierarchical: the network bounds the step from", "ring: the network bounds the step from"):
        assert words in reader.text, words
    for _, fact in tables.machine_facts(whole):
        assert fact in reader.text
    for assumption in whole["projection"]["assumptions"]:
        assert assumption in reader.text
    markdown = (tmp_path / "benchmark.md").read_text()
    assert tables.ALONE_NOTE in reader.text and tables.ALONE_NOTE in markdown
    for cluster in whole["projection"]["clusters"]:
        for reduction in cluster["reductions"].values():
            for point in reduction["points"]:
                text = tables.number(point["gradients_ms"] + point["statistics_ms"])
                assert text in reader.cells and f"| {text} | {point['efficiency']:.1%} |" in markdown
    for line in projected.bounds(whole["projection"]):
        assert line in reader.text and f"- {line}" in markdown


def test_several_workers_have_a_plot_a_column_and_their_slowest():
    cells = sweep(workers=(1, 2), batches=(64, 128))
    reader = read(report(cells))
    assert "Scaling over workers: cnn 28x28x1, XLA off" in reader.plot_labels
    assert not any(label.startswith("Scaling over replicas") for label in reader.plot_labels)
    for words in ("1, 2 workers; 1 replica;", "weak scaling efficiency 101% with 2 workers, which share the same cores",
                  "ideal: 1x, the workers share the same cores", "batch 64 a worker",
                  "All cells model image precision workers replicas", "slowest worker, ms a step alone"):
        assert words in reader.text, words
    assert "workers replicas" not in read(report(sweep())).text


def test_the_first_screen_has_the_headline_and_the_failures():
    cells = [*sweep(HALF, (1, 2), (64, 128)), failed(error="out <of> memory", xla="on")]
    text = read(report(cells)).text
    first = text[:text.index("Throughput against batch size")]
    for words in ("8 of 9 cells measured: cnn 28x28x1; float32, mixed_bfloat16; 1, 2 replicas; batch 64, 128; XLA off, "
                  "on", "Xeon(R) Platinum 8481C, 2 cores", "tensorflow 2.21.0",
                  "841 examples/s: float32, 1 replica, batch 128",
                  "mixed_bfloat16 over float32 0.52x median of 4 cells, emulated", "weak scaling efficiency 97%",
                  "highest utilization 71%", "input wait 1.3%", "failed: out <of> memory",
                  "1.92 times as long as float32"):
        assert words in first, words


@pytest.mark.parametrize("cells, missing", [
    ([cell()], ["--batch_sizes=16,32,64", "--precisions=float32,mixed_bfloat16", "--replica_counts=1,2",
                "--workers=1,2", "--project=1024"]),
    ([failed(), failed(status="does_not_fit", batch_size=2)],
     ["no cell has the breakdown", "no cell has its peak memory"]),
    ([], ["No cells were run.", "--batch_sizes=16,32,64"]),
])
def test_a_section_without_data_names_the_flags_that_give_it(cells, missing):
    reader = read(report(cells))
    assert [words for words in missing if words not in reader.text] == []
    assert len(reader.plot_labels) == (2 if cells and is_measured(cells[0]) else 0)


def test_unknown_figures_are_dashes():
    bare = {**failed(status="ok", error=None), "examples_per_second": 812.0}
    reader = read(report([bare, {**bare, "replicas": 2}]))
    assert "812" in reader.cells and "None" not in reader.text and "nan" not in reader.text
    assert reader.plot_labels == ["Scaling over replicas: cnn 28x28x1, XLA off"]


def test_many_cells_are_spread_over_several_plots(monkeypatch):
    monkeypatch.setattr(plots, "MOST_ROWS", 5)
    cells = sweep(("float32", "mixed_float16"), (1,), (16, 32), ("off", "on"))
    reader = read(report(cells))
    assert [label for label in reader.plot_labels if label.startswith("Step time")] == [
        "Step time breakdown: cnn 28x28x1 (1 of 2)", "Step time breakdown: cnn 28x28x1 (2 of 2)"]
    assert sum(label.startswith("Throughput") for label in reader.plot_labels) == 2
    assert "examples/s (log scale)" in reader.text


def test_names_are_text_and_not_markup():
    reader = read(report(sweep(HALF, (1,), (64, 128), model='<b>"x"&y</b>')))
    assert '<b>"x"&y</b>' in reader.cells
    assert reader.plot_labels[0] == 'Throughput against batch size: <b>"x"&y</b> 28x28x1, XLA off'


def test_a_long_list_of_failures_is_folded():
    reader = read(report([failed(batch_size=size) for size in range(1, 31)]))
    assert "22 more" in reader.text and reader.text.count("ResourceExhaustedError") == 30


def test_the_parts_of_a_step_add_up_to_its_time():
    parts = plots.step_parts(cell(rate=640.0, input_wait_share=0.04))
    assert sum(parts.values()) == pytest.approx(100.0) and parts["input wait"] == pytest.approx(4.0)
    assert parts["backward"] == pytest.approx(55.0) and parts["rest"] == pytest.approx(5.0)
    # More waiting than is left of the step: no part falls below nothing.
    parts = plots.step_parts(cell(rate=640.0, input_wait_share=0.5))
    assert sum(parts.values()) == pytest.approx(100.0) and parts["rest"] == 0.0
    assert plots.step_parts(cell(split_ms=None)) == plots.step_parts(failed()) == {}


def test_scaling_is_drawn_at_the_batch_with_the_most_replica_counts():
    cells = report(sweep(replicas=(1, 2, 4), batches=(64, 128, 256), gpu=True), gpus=["H100"] * 4)["cells"]
    base, points = plots.best_line(cells, "weak")
    assert base == 64 and sorted(points) == [2, 4]
    assert points[4] == pytest.approx(cells[-1]["examples_per_second"] / cells[0]["examples_per_second"])
    assert plots.best_line(cells, "strong")[0] == 256 and plots.best_line(cells[:3], "weak") == (None, {})
