"""Flag files, and the defaults that a data set brings."""
import importlib.resources
import os

import pytest
from absl import flags as absl_flags

import flags
import recipes
from flags.defaults import RECIPES, dataset_defaults
from pipeline import config
from pipeline.errors import UsageError


def configured(*arguments):
    flag_values = absl_flags.FlagValues()
    flags.define_options(flag_values, tuple(config.GROUPS))
    flags.parse(list(arguments), flag_values, "train")
    return flags.config_from_flags(flag_values).flat()


GLOBAL = config.ExperimentConfig().flat()


def test_digits_is_the_default_data_set_and_brings_its_recipe():
    brought = dataset_defaults("digits")
    assert brought["model"] == "cnn" and brought["epochs"] is not None
    assert configured() == configured("--dataset=digits")
    assert {name: configured()[name] for name in brought} == {
        name: tuple(value) if isinstance(value, list) else value for name, value in brought.items()}
    assert any(configured()[name] != GLOBAL[name] for name in brought)


def test_another_data_set_has_the_global_defaults():
    assert configured("--dataset=mnist") == {**GLOBAL, "dataset": "mnist"}


def test_a_flag_that_is_given_overrides_the_recipe_alone():
    before, after = configured(), configured("--batch_size=16")
    assert {name for name in before if before[name] != after[name]} == {"batch_size"}
    assert after["batch_size"] == 16


def test_a_flag_given_with_the_global_default_overrides_too():
    assert GLOBAL["batch_size"] != configured()["batch_size"]
    assert configured(f"--batch_size={GLOBAL['batch_size']}")["batch_size"] == GLOBAL["batch_size"]


def test_steps_drop_the_recipe_s_epochs_but_both_given_are_refused():
    values = configured("--steps=20")
    assert (values["steps"], values["epochs"]) == (20, None)
    with pytest.raises(UsageError, match="--epochs=5 and --steps=3"):
        configured("--epochs=5", "--steps=3")


def test_a_flag_file_overrides_the_recipe_and_is_overridden_by_what_follows(tmp_path):
    file = tmp_path / "mine.flags"
    file.write_text("# a comment\n\n// another\n--batch_size=8\n--augment=flip,crop:2\n--nosync_batch_norm\n--seed=1\n")
    values = configured(f"--flagfile={file}", "--seed=2")
    assert values["batch_size"] == 8 and values["augment"] == ("flip", "crop:2") and values["seed"] == 2
    assert values["sync_batch_norm"] is False
    assert values["learning_rate"] == dataset_defaults("digits")["learning_rate"]
    assert configured("--seed=2", "--flagfile", str(file))["seed"] == 1


def test_a_steps_line_in_a_flag_file_drops_the_recipe_s_epochs_too(tmp_path):
    (tmp_path / "short.flags").write_text("--steps=7\n")
    values = configured(f"--flagfile={tmp_path / 'short.flags'}")
    assert (values["steps"], values["epochs"]) == (7, None)


@pytest.mark.parametrize("name", ["mnist-inception.flags", "recipes/mnist-inception.flags", "mnist-inception"])
def test_a_recipe_is_found_from_anywhere(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    values = configured(f"--flagfile={name}")
    assert (values["dataset"], values["model"], values["learning_rate"]) == ("mnist", "inception", 5e-5)


def test_a_file_here_comes_before_a_recipe_of_its_name(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "digits.flags").write_text("--seed=77\n")
    assert configured("--flagfile=digits.flags")["seed"] == 77


@pytest.mark.parametrize("arguments, line", [
    (["--flagfile=nothing.flags"], "--flagfile=nothing.flags: there is no such file; recipes: "),
    (["--flagfile=elsewhere/digits.flags"], "--flagfile=elsewhere/digits.flags: there is no such file"),
    (["--flagfile"], "--flagfile needs the name of a file; recipes: "),
    (["--flagfile=."], "--flagfile: . cannot be read: is a directory"),
    (["--flagfile=binary"], "line 1 is not text in UTF-8"),
    (["--flagfile=wrong"], "unknown flag '--epoch': did you mean --epochs?"),
    (["--flagfile=bare"], "unexpected argument 'epochs=3': did you mean --epochs=3?"),
])
def test_a_flag_file_that_cannot_be_used_is_one_line(arguments, line, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "binary").write_bytes(b"\x7fELF\xff")
    (tmp_path / "wrong").write_text("--epoch=3\n")
    (tmp_path / "bare").write_text("epochs=3\n")
    with pytest.raises(UsageError) as caught:
        configured(*arguments)
    assert line in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize("name", recipes.names())
def test_every_recipe_makes_a_valid_configuration(name):
    dataset = configured(f"--flagfile={name}")["dataset"]
    assert dataset.removesuffix("2012") == (
        "digits" if name == "finetune.flags" else name.split("-")[0].removesuffix(".flags"))
    recipe = recipes.read(name)
    assert recipe.summary and all(getattr(recipe, figure) for figure in recipes.FIGURES)
    assert configured(f"--recipe={recipe.name}") == configured(f"--flagfile={name}")
    assert configured(f"--recipe={recipe.name}", "--seed=3") == configured(*recipe.flags, "--seed=3")


@pytest.mark.parametrize("arguments, changed", [
    (["--recipe=mnist-cnn", "--batch_size=8"], {"batch_size": 8}),
    (["--batch_size=8", "--recipe=mnist-cnn"], {"batch_size": 8}),
    (["--steps=5", "--recipe", "mnist-cnn.flags"], {"steps": 5, "epochs": None}),
    (["--recipe=mnist-cnn", "--flagfile=mine"], {"seed": 7}),
])
def test_what_is_given_wins_over_a_recipe(arguments, changed, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine").write_text("--seed=7\n")
    assert configured(*arguments) == {**configured("--flagfile=mnist-cnn"), **changed}


def test_an_unknown_recipe_is_refused_with_the_nearest():
    with pytest.raises(UsageError, match="unknown --recipe 'fintune': did you mean 'finetune'\\? known: .*digits"):
        configured("--recipe=fintune")


def test_the_documents_runs_are_recipes():
    runs = {name: configured(f"--flagfile={name}") for name in recipes.names()}
    shown = {name: (run["dataset"], run["model"], run["optimizer"], run["learning_rate"], run["batch_size"],
                    run["epochs"]) for name, run in runs.items()}
    assert shown["mnist-cnn.flags"] == ("mnist", "cnn", "adam", 1e-3, 64, 3)
    assert shown["mnist-resnet_like.flags"] == ("mnist", "resnet_like", "adam", 1e-3, 64, 20)
    assert shown["mnist-inception.flags"] == ("mnist", "inception", "adam", 5e-5, 32, 10)
    assert shown["cifar10-mini_inception.flags"] == ("cifar10", "mini_inception", "adam", 1e-3, 256, 20)


def test_recipes_are_resources_of_the_package():
    files = importlib.resources.files("recipes")
    assert files.joinpath(RECIPES["digits"]).is_file()
    assert all(os.path.isfile(recipes.path(name)) for name in recipes.names())
