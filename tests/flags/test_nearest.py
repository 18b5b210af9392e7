"""A mistyped value or flag, or one that others use, is answered with the nearest of ours and the list of all."""
import pytest
from absl import flags as absl_flags

import flags
from pipeline.config import GROUPS, options
from pipeline.data.sources.tfds_prepare import find_or_prepare
from pipeline.errors import UsageError, nearest


def refusal(*arguments):
    values = absl_flags.FlagValues()
    flags.define_options(values, GROUPS)
    with pytest.raises(UsageError) as error:
        flags.parse(arguments, values, "train")
        flags.config_from_flags(values)
    return str(error.value)


@pytest.mark.parametrize("name, given, meant", [
    ("precision", "bf16", "mixed_bfloat16"), ("precision", "BF16", "mixed_bfloat16"),
    ("precision", "bfloat16", "mixed_bfloat16"), ("precision", "fp16", "mixed_float16"),
    ("precision", "half", "mixed_float16"), ("precision", "FP32", "float32"), ("precision", "double", "float64"),
    ("precision", "mixed-bfloat16", "mixed_bfloat16"), ("optimizer", "Adam", "adam"), ("optimizer", "AdamW", "adamw"),
    ("optimizer", "momentum", "sgd"), ("schedule", "onecycle", "one-cycle"), ("schedule", "One_Cycle", "one-cycle"),
    ("schedule", "cosine_decay", "cosine"), ("best_metric", "acc", "accuracy"), ("xla", "true", "on"),
    ("cache", "GPU", "device"), ("verbosity", "silent", "quiet"), ("normalize", "channel", "per_channel"),
])
def test_a_choice(name, given, meant):
    output = refusal(f"--{name}={given}")
    assert f"did you mean '{meant}'?" in output and all(c in output for c in options()[name].metadata["choices"])


@pytest.mark.parametrize("name", [n for n, field in options().items() if field.metadata["choices"]])
def test_every_choice_in_another_case_is_found(name):
    choices = options()[name].metadata["choices"]
    for choice in choices:
        assert nearest(choice.upper(), choices) == choice == nearest(choice.replace("_", "-"), choices)


@pytest.mark.parametrize("given, meant", [
    ("--epoch=3", "--epochs"), ("--Learning-Rate=1", "--learning_rate"), ("--learning=1", "--learning_rate"),
    ("--batchsize=4", "--batch_size"), ("--lr=1", "--learning_rate"), ("--modle=cnn", "--model"),
    ("--emadecay=0.9", "--ema_decay"), ("--no_sync_batch_norm", "--nosync_batch_norm"),
])
def test_a_flag(given, meant):
    assert f"did you mean {meant}?" in refusal(given)


def test_a_model():
    known = ("mlp", "cnn", "resnet_like", "inception", "mini_inception", "three_apis")
    assert [nearest(name, known) for name in ("resnet", "ResNet50", "CNN", "MiniInception", "threeapis", "vit")] == [
        "resnet_like", "resnet_like", "cnn", "mini_inception", "three_apis", None]


@pytest.mark.parametrize("given, meant", [
    ("{folder}", "--dataset=folder:{folder}"), ("folder/{folder}", "--dataset=folder:{folder}"),
    ("Folder:photos", "--dataset=folder:photos"), ("imagefolder:photos", "--dataset=folder:photos"),
    ("photos", "--dataset=folder:photos"), ("./photos", "--dataset=folder:./photos"),
    ("folder/photos", "--dataset=folder:photos"), ("dir=photos", "--dataset=folder:photos"),
])
def test_a_folder_of_images(tmp_path, monkeypatch, given, meant):
    (tmp_path / "photos").mkdir()
    monkeypatch.chdir(tmp_path)
    given, meant = (text.format(folder=tmp_path / "photos") for text in (given, meant))
    with pytest.raises(UsageError) as error:
        find_or_prepare(given, str(tmp_path / "data"))
    assert meant in str(error.value)
