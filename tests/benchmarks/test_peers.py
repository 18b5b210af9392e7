"""The comparison with peers: the same work, blocks of the requested steps, resumable files."""
import dataclasses
import io
import itertools
import json
import sys

import numpy as np
import pytest
import tensorflow as tf

from benchmarks import keras_models, peers, table, workloads
from benchmarks.gate import Gate
from benchmarks.processes import Process, in_order
from benchmarks.ratios import median_ratio, verdict
from pipeline.errors import RunFailure
from tests.selection import quick

TINY = dataclasses.replace(workloads.WORKLOADS["mlp"], num_train=80, num_test=40, batch_size=16, warm_steps=4,
                           block_seconds=0.05, evaluated=40, steps_per_execution=4)


@pytest.mark.parametrize("first, bound, at_least, expected", [
    (1.10, 1.05, True, "met"), (1.10, 1.15, True, "missed"), (1.10, 1.15, False, "met"), (1.10, 1.05, False, "missed"),
])
def test_a_ratio_is_met_or_missed_where_its_interval_is_on_one_side(first, bound, at_least, expected):
    second = np.linspace(1.0, 2.0, 15)
    ratio = median_ratio(first * second * np.linspace(0.99, 1.01, 15), second)
    assert ratio["median"] == pytest.approx(first) and ratio["low"] < first < ratio["high"]
    assert verdict(ratio, bound, at_least) == expected
    assert verdict(ratio, first, at_least) == "not resolved"
    assert verdict({**ratio, "pairs": 14}, bound, at_least) == "not resolved"


@pytest.mark.parametrize("name, shape, parameters, operations", quick([
    ("mlp", (28, 28, 1), 50_890, 0.0), ("cnn", (28, 28, 1), 1_097_098, 0.434),
    ("resnet_like", (28, 28, 1), 2_400_490, 1.287), ("mini_inception", (32, 32, 3), 1_656_250, 1.402),
], 0, 1))
def test_the_peer_of_keras_is_the_same_network(name, shape, parameters, operations):
    from pipeline.models import registry
    own, peer = registry.create(name, 10, shape), keras_models.create(name, shape)
    assert peer.count_params() == own.count_params() == parameters
    peer.set_weights(own.get_weights())
    images = np.random.RandomState(0).rand(8, *shape).astype("float32")
    np.testing.assert_allclose(peer(images, training=True), own(images, training=True), rtol=1e-3, atol=1e-3)
    counted = keras_models.step_operations(keras_models.convolutions(name, shape)) / 1e9
    assert counted == pytest.approx(operations, abs=1e-3)  # Billions of operations a trained image.


@pytest.mark.acceptance
@pytest.mark.parametrize("name", ["resnet50", "efficientnet_v2_b0"])
def test_the_peer_of_keras_is_the_same_architecture_on_the_same_input(name):
    from pipeline.architectures import ARCHITECTURES
    from pipeline.models import registry
    from pipeline.models.pixels import normalize
    own, peer = registry.create(name, 10, (64, 64, 3)), keras_models.create(name, (64, 64, 3))
    peer.set_weights(own.get_weights())
    images = tf.constant(np.random.RandomState(0).randint(0, 256, (4, 64, 64, 3)), tf.uint8)
    seen = normalize(tf.cast(images, tf.float32) / 255, 3, None, None, ARCHITECTURES[name].input_range)
    np.testing.assert_allclose(own(seen), peer(keras_models.preprocessing(name)(images)), rtol=1e-4, atol=1e-4)
    assert not set(workloads.ARCHITECTURES[f"{name}-64"].peers(workloads.PEERS)) & set(workloads.TORCH_PEERS)


def run_in_this_process(peer, tmp_path, commands):
    """Runs a peer of Keras on TINY under commands; returns its answers."""
    from benchmarks import keras_peers
    data = workloads.prepare_data(TINY, tmp_path)
    weights = str(tmp_path / "weights.npz")
    model = keras_models.create("mlp", TINY.image_shape)
    np.savez(weights, *model.get_weights(), first=np.arange(3 * TINY.batch_size))
    answers = io.StringIO()
    gate = Gate(io.StringIO("".join(json.dumps(c) + "\n" for c in commands)), answers)
    order = {"peer": peer, "workload": TINY, "data": str(data), "weights": weights}
    with pytest.raises(SystemExit) as end:
        keras_peers.run(order, gate)
    assert end.value.code == 0
    return [json.loads(line) for line in answers.getvalue().splitlines()]


def test_blocks_end_with_the_execution_that_completes_them():
    """An epoch has 5 steps: with at most 4 an execution, 3 become 4, and 7 become 1 + 4 + 1 + 4."""
    from benchmarks.gate import Blocks
    from benchmarks.keras_peers import HoldBetweenBlocks
    answers = io.StringIO()
    gate = Gate(io.StringIO('{"command": "train", "steps": 3}\n{"command": "train", "steps": 7}\n'), answers)
    hold = HoldBetweenBlocks(Blocks(gate), steps_per_execution=4, steps_per_epoch=5)
    with pytest.raises(SystemExit):
        for batch in itertools.cycle((0, 4)):
            hold.on_train_batch_begin(batch)
    assert [json.loads(line)["steps"] for line in answers.getvalue().splitlines()] == [4, 10]


@pytest.mark.acceptance
@pytest.mark.parametrize("peer, counts", [("keras_fit", [3, 7]), ("keras_fit_many", [4, 10]), ("custom_loop", [3, 7])])
def test_a_peer_trains_the_requested_steps_across_epochs(peer, counts, tmp_path):
    evaluations = [] if peer == "custom_loop" else [{"command": "evaluate"}]
    first, *others = run_in_this_process(peer, tmp_path, [
        {"command": "train", "steps": 3}, *evaluations, {"command": "train", "steps": 7}, {"command": "memory"}])
    assert len(first["losses"]) == 3 and first["losses"][2] < first["losses"][0]
    blocks = [answer for answer in others if "steps" in answer]
    assert [block["steps"] for block in blocks] == counts and all(block["seconds"] > 0 for block in blocks)
    assert others[-1]["mebibytes"] > 100
    assert len(others) == 3 + len(evaluations)


@pytest.mark.acceptance
def test_the_whole_loop_trains_the_requested_steps(tmp_path):
    order = {"workload": dataclasses.asdict(TINY), "data": str(workloads.prepare_data(TINY, tmp_path)), "weights": None,
             "peer": "mirrorline_run", "options": {"checkpoint_every": "4", "steps_per_loop": 2}}
    with Process("the loop", order) as process:
        assert [process.ask("train", steps=steps)["steps"] for steps in (6, 8)] == [6, 8]


@pytest.mark.acceptance
def test_mirrorline_and_keras_are_compared_once(tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(workloads.WORKLOADS, "mlp", TINY)
    output = tmp_path / "peers.json"
    command = ["--only=mlp", "--rounds=2", "--peers=keras_fit", "--option=normalize=none", f"--output={output}"]
    assert peers.main(command) == 0
    part = json.loads(output.read_text())["parts"]["mlp"]
    assert part["losses"]["mirrorline"] == pytest.approx(part["losses"]["keras_fit"], abs=1e-4)
    assert {name: len(speeds) for name, speeds in part["examples/s"].items()} == {"mirrorline": 2, "keras_fit": 2}
    assert min(part["examples/s"]["mirrorline"] + part["evaluation examples/s"]["keras_fit"]) > 0
    assert part["circumstances"]["options"] == {"normalize": "none"}
    assert part["first_step_seconds"]["keras_fit"] > 0 and part["peak_MiB"]["mirrorline"] > 100
    text = output.with_suffix(".md").read_text()
    assert "| Mirrorline | " in text and "| training over keras_fit | " in text and "not resolved |" in text
    capsys.readouterr()
    assert peers.main(command) == 0
    assert "mlp: measured " in capsys.readouterr().out
    assert json.loads(output.read_text())["parts"]["mlp"] == part


def test_a_peer_that_computes_something_else_is_reported():
    losses = {"mirrorline": [2.3, 2.2, 2.1], "keras_fit": [2.3, 2.2, 2.105]}
    peers.check_same_work(losses, 1e-2)
    with pytest.raises(RunFailure, match=r"torch_eager does not do the same work: its loss at step 3 is 2\.1110"):
        peers.check_same_work({**losses, "torch_eager": [2.3, 2.2, 2.111]}, 1e-2)
    with pytest.raises(RunFailure, match="keras_fit does not"):
        peers.check_same_work({**losses, "keras_fit": [float("nan")] * 3}, 1e-2)


def test_the_order_of_the_rounds_alternates():
    assert [in_order("ABC", n) for n in range(3)] == [["A", "B", "C"], ["C", "B", "A"], ["A", "B", "C"]]


def test_the_error_of_an_ended_process_is_reported():
    with Process("a peer", {"peer": "keras_fit"}) as process:
        with pytest.raises(RunFailure, match="a peer ended with 1: KeyError: 'workload'"):
            process.ask("memory")


def test_without_pytorch_or_a_compiler_an_error_suggests_a_remedy(tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "torch", None)
    assert peers.main([f"--output={tmp_path}/peers.json"]) == 2
    error = capsys.readouterr().err
    assert "pip install '.[peers]'" in error and "--peers=mirrorline,keras_fit" in error and error.count("\n") == 1
    monkeypatch.delitem(sys.modules, "torch")
    (tmp_path / "torch").mkdir()
    (tmp_path / "torch" / "__init__.py").write_text("")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("CXX", raising=False)
    assert peers.main(["--peers=torch_compiled", f"--output={tmp_path}/peers.json"]) == 2
    assert "apt-get install g++" in capsys.readouterr().err


@pytest.mark.parametrize("arguments, expected", [
    (["--peers=keras_fitt"], "did you mean 'keras_fit'"), (["--rounds=0"], "--rounds must be at least 1; found 0"),
    (["--only=resnett", "--peers=keras_fit"], "did you mean 'resnet_like'"),
    (["--peers=keras_fit", "--option=cach=device"], "did you mean 'cache'"),
    (["--peers=keras_fit", "--option=seed=one"], "--option=seed must be of type int; found 'one'"),
])
def test_bad_input_is_one_line(arguments, expected, tmp_path, capsys):
    assert peers.main([*arguments, f"--output={tmp_path}/peers.json"]) == 2
    error = capsys.readouterr().err
    assert expected in error and error.count("\n") == 1
    assert not list(tmp_path.iterdir())


def test_the_table_shows_shares_and_verdicts():
    workload, rounds = workloads.WORKLOADS["resnet_like"], 15
    speeds = {"mirrorline": [190.0] * rounds, "keras_fit": [100.0] * rounds, "torch_compiled": [180.0] * rounds}
    evaluations = {"mirrorline": [500.0] * rounds, "keras_fit": [400.0] * rounds}
    rates = [250.0] * rounds
    ratios = peers.ratios_of(workload, speeds, evaluations, rates, {"operations": 1.287e9})
    found = {entry["what"]: entry["ratio"]["median"] for entry in ratios}
    assert found["training over keras_fit"] == pytest.approx(1.9)
    assert found["training over the matrix product"] == pytest.approx(190 * 1.287 / 250)
    assert found["lead over keras_fit in evaluation over that in training"] == pytest.approx(1.25 / 1.9)
    circumstances = {"rounds": rounds, "data": "made up", "options": {"cache": "device"}, "cores": 2,
                     "peers": list(speeds), "processor": "some", "python": "3.11.7",
                     "versions": {"keras": "3.15.1", "torch": None}}
    peak = dict.fromkeys(speeds, 900.0)
    text = table.markdown({"parts": {"resnet_like": {
        "examples/s": speeds, "evaluation examples/s": evaluations, "peak_MiB": peak, "first_step_seconds": peak,
        "product": {"by": "ceiling", "size": 2048, "GFLOP/s": rates}, "operations": 1.287e9, "idle_share": 0.01,
        "convolution_seconds": [0.3] * rounds, "ratios": ratios, "date": "today", "circumstances": circumstances}}})
    assert "| Mirrorline | 190 | 336.84 | 0.98 | 0.89 | 500 | 900 | 900.0 |" in text
    assert "| training over keras_fit | 1.900 | 1.900 to 1.900 | ≥ 1.6 | met |" in text
    assert "| training over torch_compiled | 1.056 | 1.056 to 1.056 | ≥ 1.15 | missed |" in text
    assert "keras 3.15.1; 15 rounds" in text and "torch None" not in text
    assert "--peers=mirrorline,keras_fit,torch_compiled --option=cache=device" in text
