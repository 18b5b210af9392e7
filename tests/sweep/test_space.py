"""Parsing of --space, its grid, and its errors."""
import pytest

from pipeline.config import ExperimentConfig
from pipeline.errors import UsageError
from pipeline.sweep.space import Choices, Points, Range, parse_space, value_text

EXAMPLE = ("learning_rate=log:1e-4..1e-1,model=cnn|resnet_like,batch_size=32|64|128,warmup=0|1epoch,"
           "label_smoothing=0..0.2,epochs=int:2..6")


def test_every_form_is_read_in_the_order_of_the_configuration():
    domains = parse_space(EXAMPLE).domains
    assert list(domains) == ["model", "learning_rate", "warmup", "label_smoothing", "epochs", "batch_size"]
    assert domains["learning_rate"] == Range(1e-4, 1e-1, True, "log:1e-4..1e-1")
    assert domains["label_smoothing"] == Range(0.0, 0.2, False, "0..0.2")
    assert domains["epochs"] == Range(2, 6, False, "int:2..6") and domains["epochs"].values == (2, 3, 4, 5, 6)
    assert domains["model"] == Choices(("cnn", "resnet_like"), "cnn|resnet_like")
    assert domains["warmup"].values == ("0", "1epoch")
    assert domains["batch_size"] == Points((32, 64, 128), "32|64|128")


@pytest.mark.parametrize("text, values", [
    ("learning_rate=log:1e-4..1e-1:4", (1e-4, 1e-3, 1e-2, 1e-1)),
    ("label_smoothing=0..0.2:5", (0, 0.05, 0.1, 0.15, 0.2)),
    ("batch_size=log:16..256:5", (16, 32, 64, 128, 256)), ("accumulate_steps=1..3:8", (1, 2, 3)),
    ("nesterov=true|off", (True, False)), ("batch_size=16..18", (16, 17, 18)),
    # Commas in the values of a list; the last value is the empty list.
    ("augment=flip,crop:2|cutout|", (("flip", "crop:2"), ("cutout",), ())),
    ("model_options=api=sequential,x=2|api=functional", (("api=sequential", "x=2"), ("api=functional",))),
])
def test_sets_and_points(text, values):
    space = parse_space(f"{text},seed=1|2")
    assert space.domains[text.partition("=")[0]].values == values
    assert space.size == 2 * len(values)


def test_a_grid_is_every_combination_once():
    space = parse_space("batch_size=32|64,learning_rate=log:1e-3..1e-1:3")
    grid = list(space.grid())
    assert len(grid) == space.size == 6 and len({tuple(values.items()) for values in grid}) == 6
    assert grid[:2] == [{"learning_rate": 0.001, "batch_size": 32}, {"learning_rate": 0.001, "batch_size": 64}]
    with pytest.raises(UsageError, match=r"learning_rate=log:1e-4..1e-1 is a range: .* learning_rate=log:1e-4..1e-1:4"):
        parse_space(EXAMPLE).check_grid()


@pytest.mark.parametrize("text, message", [
    (None, "--space is what to vary, name=values"), ("model", "--space: 'model' has no values"),
    ("lerning_rate=1|2", "unknown flag 'lerning_rate': did you mean learning_rate?"),
    ("lr=1|2", "unknown flag 'lr': did you mean learning_rate?"),
    ("batch_size=32|64,colour=1|2", "unknown flag 'colour'"),
    ("learning_rate=0.1", "learning_rate=0.1 is one value and no space: give it as --learning_rate=0.1"),
    ("learning_rate=0..1", "--learning_rate must be > 0; found 0"),
    ("label_smoothing=0|1", "--label_smoothing must be >= 0 and < 1; found 1"),
    ("learning_rate=1..0.1", "learning_rate=1..0.1 is empty"), ("clip_norm=log:0..1", "needs numbers above 0; found 0"),
    ("learning_rate=a|b", "learning_rate must be a number; found 'a'"),
    ("batch_size=32|48.5", "batch_size must be a whole number; found '48.5'"),
    ("nesterov=yes|no", "nesterov must be true or false; found 'yes'"),
    ("model=cnn..mlp", "model=cnn..mlp is not of numbers"), ("model=cnn|cnn", "holds a value twice"),
    ("learning_rate=1e-3..1e-1:1", "must be a whole number from 2; found '1'"),
    ("epochs=2|3,epochs=4|5", "--space holds epochs twice"),
    ("dataset=mnist|digits", "dataset cannot be swept: trials are compared on the same held-out examples"),
    ("best_metric=loss|accuracy", "best_metric cannot be swept"), ("workdir=a|b", "workdir cannot be swept"),
])
def test_invalid_spaces_are_refused(text, message):
    with pytest.raises(UsageError) as raised:
        parse_space(text, {"lr": "learning_rate"})
    assert message in str(raised.value) and "\n" not in str(raised.value)


@pytest.mark.parametrize("text, message", [
    ("batch_size=32|48,accumulate_steps=3|16", "with accumulate_steps=3 batch_size=32: --batch_size=32 does not"),
    ("warmup=0|soon", "with warmup=soon: --warmup: cannot read 'soon'"),
    ("optimizer=adm|sgd", "with optimizer=adm: unknown --optimizer 'adm': did you mean 'adam'?"),
    ("augment=flip|flip,resized_crop", "with augment=flip,resized_crop: --augment=flip,resized_crop: resized_crop is"),
    ("epochs=2|3,steps=10|20", "--epochs=2 and --steps=10 both set the length"),
])
def test_incompatible_values_are_reported(text, message):
    with pytest.raises(UsageError) as raised:
        parse_space(text).check(lambda values: ExperimentConfig.from_flat(values))
    assert message in str(raised.value)


@pytest.mark.parametrize("text, drawn, kept", [
    ("learning_rate=log:1e-4..1e-1", 0.0031622776, 0.00316), ("learning_rate=log:1e-4..1e-1", 0.000100001, 1e-4),
    ("label_smoothing=0..0.2", 0.123456, 0.1235), ("ema_decay=0.99..0.9999", 0.99123456, 0.991235),
    ("ema_decay=0.99..0.9999", 0.99990000001, 0.9999),
])
def test_values_are_short_and_in_range(text, drawn, kept):
    assert next(iter(parse_space(text).domains.values())).rounded(drawn) == kept


@pytest.mark.parametrize("value, text", [(0.1, "0.1"), (3.0, "3"), (1e-5, "1e-05"), (True, "true"), ((), ""),
                                         (64, "64"),
                                         (("flip", "crop:2"), "flip,crop:2"), (["flip"], "flip"), ("1epoch", "1epoch"),
                                         (1e30, "1e+30")])
def test_a_value_as_a_flag(value, text):
    assert value_text(value) == text
