"""A run that starts from a trained model, killed, resumed, and restarted with other options."""
import json
import shutil
import signal

import numpy as np
import pytest

from tests.commands import kill_at_step, mirrorline, result, start

QUICK = ("train", "--model=mlp", "--batch_size=32", "--subset=6", "--schedule=constant", "--augment=")
TRANSFER = (*QUICK, "--initialize_from=backbone", "--freeze=hidden", "--steps=16",
            "--on_divergence=ignore", "--ema_decay=0.9")


@pytest.mark.acceptance
def test_a_killed_run_needs_no_file_and_ends_with_the_same_weights(tmp_path):
    assert mirrorline(*QUICK, "--steps=4", "--workdir=backbone", cwd=tmp_path).returncode == 0
    whole = mirrorline(*TRANSFER, "--workdir=whole", cwd=tmp_path)
    assert whole.returncode == 0, whole.stderr
    assert "weights 4 of 4 variables from backbone/checkpoints/best/ckpt-4\n" in whole.stdout
    assert "frozen  2 of 4 weights: 50,240 parameters stay, 650 train\n" in whole.stdout
    # Killed before there is a checkpoint, it begins with the file again; killed after, it goes on without the file.
    for step, every in ((2, 1000), (8, 3)):
        process = start(*TRANSFER, "--workdir=killed", "--steps_per_loop=1", f"--checkpoint_every={every}",
                        cwd=tmp_path)
        assert kill_at_step(process, tmp_path / "killed", step)[0] == -signal.SIGKILL
    shutil.rmtree(tmp_path / "backbone")
    last = mirrorline(*TRANSFER, "--workdir=killed", cwd=tmp_path)
    assert last.returncode == 0, last.stderr
    assert "resume" in last.stdout and "weights 4" not in last.stdout
    assert result(tmp_path / "killed")["weights_sha256"] == result(tmp_path / "whole")["weights_sha256"]
    recorded = [json.loads((tmp_path / name / "config.json").read_text()) for name in ("whole", "killed")]
    assert recorded[0]["initialization"] == recorded[1]["initialization"]
    assert recorded[1]["initialization"]["file"] == "backbone/checkpoints/best/ckpt-4"
    assert recorded[1]["frozen"]["trained_parameters"] == 650
    starts = [r for r in map(json.loads, (tmp_path / "killed" / "launches.jsonl").read_text().splitlines())
              if r["event"] == "start"]
    assert ["initialized_from" in r for r in starts] == [True, True, False]
    for change, says in (("--freeze=classifier", "freeze hidden (now classifier)"),
                         ("--initialize_from=other", "initialize_from backbone (now other)")):
        refused = mirrorline(*TRANSFER, change, "--workdir=killed", cwd=tmp_path)
        assert refused.returncode == 2 and says in refused.stderr and refused.stderr.count("\n") == 1
        assert ("--allow" in refused.stderr) == ("initialize" in change)  # What is stored fits no other --freeze.


def test_weights_that_do_not_fit_leave_no_run(tmp_path):
    np.save(tmp_path / "weights.npy", np.zeros(3))
    done = mirrorline(*QUICK, "--steps=4", "--initialize_from=weights.npy", "--workdir=run", cwd=tmp_path)
    assert done.returncode == 2 and "--initialize_from: weights.npy is no model" in done.stderr
    assert done.stderr.count("\n") == 1 and not (tmp_path / "run").exists()
