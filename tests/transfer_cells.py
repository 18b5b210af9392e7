"""Cells of `make acceptance` about --initialize_from and --freeze: every model, from every form, killed and resumed."""
import json
import pathlib
import random
import tempfile

import numpy as np

from tests.commands import assert_every_step_once, kill_at_step, result, start, succeed
from tests.verify_cells import proved

# What each model does not train: layers, parts of blocks, normalizations, or all but its head.
FROZEN = {"mlp": "hidden", "cnn": "block1,block?/norm", "resnet_like": "block1,*/norm", "inception": "conv,inception1",
          "mini_inception": "backbone", "three_apis": "network/convolution1,network/norm1"}
FILES = {"saved_model": "export/saved_model", "keras": "export/keras/1/model.keras",
         "weights": "export/weights/1/model.weights.h5"}
STEPS = 16
SHORT = ("--batch_size=16", "--subset=4", "--evaluate_every=8", "--tensorboard=scalars", "--verbosity=quiet")
OTHER = ("--dataset=synthetic:28x28x1x3", *SHORT, f"--steps={STEPS}", "--checkpoint_every=4", "--ema_decay=0.9")


def source(model, folder):
    """Trains a model for ten classes and exports it in the forms that training can start from."""
    succeed("train", "--dataset=digits", *SHORT, "--steps=8", f"--model={model}", "--workdir=run", cwd=folder)
    succeed("export", "--workdir=run", f"--format={','.join(FILES)}", "--output=export", "--nolatency", "--quiet",
            cwd=folder)


def transferred(model):
    """Starts from each form with three classes, frozen in part; killed and resumed on one replica and on two."""
    with tempfile.TemporaryDirectory() as folder:
        source(model, folder)
        command = ("train", *OTHER, f"--model={model}", f"--freeze={FROZEN[model]}")
        hashes, kills = {}, {}
        for (form, path), replicas in zip(FILES.items(), (1, 2, 1), strict=True):
            here = (*command, f"--initialize_from={path}", f"--replicas={replicas}")
            succeed(*here, f"--workdir={form}", cwd=folder)
            taken_over_and_kept(folder, form)
            hashes[form] = result(f"{folder}/{form}")["weights_sha256"]
            if form != "weights":
                kills[form] = killed(here, folder, model, replicas)
                again = result(f"{folder}/killed{replicas}")["weights_sha256"]
                assert again == hashes[form], f"{replicas} replica(s): other weights after the resume"
        assert hashes["weights"] == hashes["saved_model"], hashes  # The same weights, whatever they lay in.
        return {"killed_at_step": kills, "weights_sha256": hashes}


def killed(command, folder, model, replicas):
    """Trains, killed at a random step and resumed; returns the step."""
    workdir = f"killed{replicas}"
    # From 9 on the checkpoint of step 4 is on disk: the save at step 8 waited for it.
    step = random.Random(f"{model} {replicas}").randrange(9, STEPS - 1)
    code, _ = kill_at_step(start(*command, f"--workdir={workdir}", "--steps_per_loop=1", cwd=folder),
                           f"{folder}/{workdir}", step)
    assert code == -9, f"the process ended by itself with {code}"
    succeed(*command, f"--workdir={workdir}", cwd=folder)
    assert_every_step_once(f"{folder}/{workdir}", STEPS)
    return step


def taken_over_and_kept(folder, workdir):
    """Checks that a run began with the weights of the source but for its head, and that what is frozen kept them."""
    from pipeline.export.weight_sources import find
    stored = json.loads(pathlib.Path(folder, workdir, "config.json").read_text())
    before, after = (find(f"{folder}/{name}").read() for name in ("run", workdir))
    head, frozen = stored["initialization"]["fresh"], stored["frozen"]["variables"]
    assert len(head) == 2 and all(name.startswith(("classifier/", "network/classifier/")) for name in head), head
    assert not stored["initialization"]["unused"] and frozen, stored["initialization"]
    before, after = ({name.partition("/")[2]: value for name, value in values.items()} for values in (before, after))
    for name in frozen:
        np.testing.assert_array_equal(before[name], after[name], err_msg=name)
    moved = [name for name in head if before[name].shape != after[name].shape]
    assert moved == head, f"{moved} of {head} have the shape of three classes"


def verified(model, *more):
    """mirrorline verify of a run that begins with other weights and trains only some of them."""
    with tempfile.TemporaryDirectory() as folder:
        source(model, folder)
        return proved("--dataset=synthetic:28x28x1x3", f"--model={model}", f"--freeze={FROZEN[model]}",
                      f"--initialize_from={folder}/{FILES['keras']}", "--batch_size=16", *more)


def cells(models):
    """Yields (name, function, arguments) of every cell, for the names of models."""
    for model in models:
        yield f"from every form, frozen, killed and resumed: {model}", transferred, (model,)
    yield "mirrorline verify, begun and frozen: cnn", verified, ("cnn",)
    yield "mirrorline verify, begun and frozen: three_apis, half precision", verified, (
        "three_apis", "--precision=mixed_bfloat16", "--ema_decay=0.9")
