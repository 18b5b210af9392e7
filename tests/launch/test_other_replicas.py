"""The command goes on with another number of replicas than it was stopped with."""
import json
import re
import signal

import pytest

from tests.commands import assert_every_step_once, kill_at_step, metrics, mirrorline, start

COMMAND = ("train", "--dataset=digits", "--model=mlp", "--batch_size=100", "--steps=24", "--evaluate_every=12",
           "--checkpoint_every=1000", "--augment=crop,mixup", "--normalize=per_channel", "--schedule=cosine",
           "--optimizer=sgd", "--learning_rate=0.01", "--tensorboard=scalars")


@pytest.mark.acceptance
def test_a_stopped_run_goes_on_with_more_replicas(tmp_path):
    whole = mirrorline(*COMMAND, "--replicas=1", "--workdir=whole", cwd=tmp_path)
    assert whole.returncode == 0, whole.stderr
    process = start(*COMMAND, "--replicas=1", "--steps_per_loop=1", "--workdir=run", cwd=tmp_path)
    code, errors = kill_at_step(process, tmp_path / "run", 8, signal.SIGTERM)
    assert code == 75, errors
    stopped = metrics(tmp_path / "run", "train")[-1]["step"]
    assert 8 <= stopped < 24
    resumed = mirrorline(*COMMAND, "--replicas=2", "--workdir=run", cwd=tmp_path)
    assert resumed.returncode == 0, resumed.stderr
    assert int(re.search(r"resume .* step (\d+)", resumed.stdout)[1]) == stopped
    launches = [json.loads(line) for line in (tmp_path / "run" / "launches.jsonl").read_text().splitlines()]
    assert [(e["step"], e["replicas"]) for e in launches if e["event"] == "start"] == [(0, 1), (stopped, 2)]
    assert_every_step_once(tmp_path / "run", 24)
    one, several = ([r["loss"] for r in metrics(tmp_path / name, "train")] for name in ("whole", "run"))
    assert several[:stopped] == one[:stopped]
    assert several[stopped:stopped + 3] == pytest.approx(one[stopped:stopped + 3], rel=1e-4)
    assert several[stopped:] != one[stopped:]  # In float32 another order of summation rounds otherwise.
