"""How long forms take: what is measured, what it comes to, and how it is shown."""
import numpy as np
import pytest
from PIL import Image

from pipeline.export import latency, run_exported
from tests.export.fresh_models import pixels, trained_model

RECORDS = {"live": {"bytes": None, "latency": latency.summaries({1: [2.0] * 30, 64: [16.0] * 20})},
           "tflite_int8": {"bytes": 1_110_000, "latency": latency.summaries({1: [0.25] * 30, 64: [8.0] * 20})},
           "onnx": {"bytes": 4_390_000, "latency": {}}}


def test_percentiles_and_throughput_are_those_of_the_calls():
    found = latency.summaries({8: list(range(1, 102))})
    assert found == {"8": {"p50": 51.0, "p90": 91.0, "p99": 100.0, "calls": 101,
                           "images_per_second": pytest.approx(8 * 1000 / 51)}}


@pytest.mark.parametrize("seconds, calls", [(0.0, run_exported.FEWEST_CALLS), (30.0, 60)])
def test_calls_are_measured_one_by_one_after_some_that_do_not_count(seconds, calls):
    now, batches = [0.0], []

    def compute(batch):
        now[0] += 100.0 if len(batches) < run_exported.WARM_CALLS else 0.5
        batches.append(batch)

    found = run_exported.latencies(compute, "batch", seconds, clock=lambda: now[0])
    assert found == pytest.approx([500.0] * calls) and batches == ["batch"] * (calls + run_exported.WARM_CALLS)


def test_a_batch_repeats_images():
    np.testing.assert_array_equal(run_exported.repeated(np.arange(3), 7), [0, 1, 2, 0, 1, 2, 0])


def test_latency_of_the_trained_model():
    trained = trained_model("mlp")
    found = latency.live_record(trained, pixels(trained), (1, 3), seconds=0.01)
    assert found["bytes"] is None and list(found["latency"]) == ["1", "3"]
    assert all(0 < times["p50"] <= times["p90"] <= times["p99"] for times in found["latency"].values())


def test_the_table_names_each_format_once():
    columns, rows = latency.table(RECORDS)
    assert columns == ("format", "MB", "batch", "p50 ms", "p90 ms", "p99 ms", "images/s")
    assert rows == [("live", "–", "1", "2.00", "2.00", "2.00", "500"), ("", "", "64", "16.0", "16.0", "16.0", "4,000"),
                    ("tflite_int8", "1.11", "1", "0.250", "0.250", "0.250", "4,000"),
                    ("", "", "64", "8.00", "8.00", "8.00", "8,000")]


def test_the_note_on_the_measurement():
    assert "fresh process" in latency.note(RECORDS) and "'live' is the trained model" in latency.note(RECORDS)
    assert "live" not in latency.note({"onnx": RECORDS["onnx"]})


def test_the_plot_grows_with_the_number_of_formats(tmp_path):
    heights = []
    for forms in (("live",), tuple(RECORDS), ("live", "tflite_int8")):
        latency.draw({name: RECORDS[name] for name in forms}, tmp_path / "latency.png", "mlp on digits")
        with Image.open(tmp_path / "latency.png") as image:
            heights.append(image.size[1])
            colors = {color for _, color in image.convert("RGB").getcolors(1 << 20)}
            assert image.size[0] == 1500 and {(0, 0x72, 0xb2), (0xc9, 0x4f, 0)} <= colors
    assert heights[0] < heights[1] == heights[2]
