"""One file of a user's with one thing of each kind: listed, used, kept on record, and there again after a resume."""
import json
import math
import re

import numpy as np
import pytest
import tensorflow as tf

from pipeline import choices, extension
from pipeline.augmentation import augmentations
from pipeline.callbacks import Callback, Ending, Evaluated, Restored, UserCallback, Window
from pipeline.config import DataConfig
from pipeline.console import Console
from pipeline.data import augment
from pipeline.data.load import load
from pipeline.data.resident import ResidentSplit, TrainIterator
from pipeline.data.stream import BatchLayout, train_stream
from pipeline.errors import UsageError
from pipeline.training.losses import find_loss
from tests.commands import answers, metrics, result, succeed

MINE = '''
import json, os
import keras
import numpy as np
import tensorflow as tf
from pipeline import register
from pipeline.callbacks import Callback
from pipeline.data.stateless_random import uniform


@register.dataset("nothing")
def nothing():
    """A data set without an argument."""


@register.dataset("csv", argument="PATH")
def csv(path, image_size=None):
    """A file with an example a line: its label and its pixels."""
    rows = np.loadtxt(path, delimiter=",", dtype=np.uint8)
    images, labels = rows[:, 1:].reshape(-1, 8, 8, 1), rows[:, 0]
    return (images, labels), (images[:50], labels[:50]), ["rows", "columns"]


@register.augmentation("dim", unit="largest share of light taken away", low=0.01, high=1.0, default=0.5)
def dim(images, seeds, strength):
    kept = tf.reshape(1 - strength * uniform(seeds, 0), [-1, 1, 1, 1])
    return tf.cast(tf.cast(images, tf.float32) * kept, tf.uint8)


@register.model("linear", example_shape=(8, 8, 1))
class Linear(keras.Model):
    def __init__(self, num_classes, scale=1.0):
        super().__init__()
        self.flatten, self.scale = keras.layers.Flatten(), keras.layers.Rescaling(scale)
        self.dense = keras.layers.Dense(num_classes)

    def call(self, images):
        return self.dense(self.scale(self.flatten(images)))


@register.optimizer("heavy_ball")
class HeavyBall(keras.optimizers.SGD):
    def __init__(self, learning_rate, weight_decay):
        super().__init__(learning_rate, momentum=0.75, weight_decay=weight_decay)


@register.loss("brier")
def brier(logits, label):
    return tf.reduce_sum((tf.nn.softmax(logits) - tf.one_hot(label, 2, dtype=logits.dtype)) ** 2, axis=-1)


@register.metric("same_as_loss")
def same_as_loss(logits, label):
    return brier(logits, label)


@register.metric("always_three")
def always_three(logits, label):
    return tf.fill(tf.shape(label), 3.0)


@register.callback("diary")
class Diary(Callback):
    def __init__(self, experiment, workdir):
        self.file = os.path.join(workdir, "diary.jsonl")

    def on_start(self, restored):
        with open(self.file, "a") as file:
            print(restored.step, file=file)
'''
OPTIONS = {"augment": ["flip", "dim:0.25"], "model": "linear", "loss": "brier",
           "metrics": ["same_as_loss", "always_three"], "callbacks": ["diary"]}
RUN = ("train", "--extension=mine.py", "--dataset=csv:stripes.csv", "--augment=flip,dim:0.25", "--model=linear",
       "--loss=brier", "--metrics=same_as_loss,always_three", "--callbacks=diary", "--batch_size=20",
       "--learning_rate=0.05", "--schedule=constant", "--evaluate_every=3", "--tensorboard=scalars")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A folder outside of the package with mine.py."""
    made = tmp_path_factory.mktemp("mine")
    (made / "mine.py").write_text(MINE)
    labels, images = np.arange(120) % 2, np.random.default_rng(5).integers(0, 200, (120, 8, 8))
    images[labels == 0, ::2] += 50
    images[labels == 1, :, ::2] += 50
    np.savetxt(made / "stripes.csv", np.column_stack([labels, images.reshape(120, 64)]), "%d", ",")
    return made


def test_help_lists_each_next_to_the_built_in_names(folder):
    words = re.sub(r"\s+", " ", succeed("train", "--help", "--extension=mine.py", cwd=folder).stdout)
    for name, built_in, mine in (("optimizer", "adam", "heavy_ball"), ("loss", "cross_entropy", "brier"),
                                 ("metrics", "", "same_as_loss | always_three"), ("callbacks", "", "diary"),
                                 ("model", "cnn", "linear"), ("dataset", "digits | folder:PATH", "nothing | csv:PATH"),
                                 ("augment", "flip (probability, ",
                                  "dim (largest share of light taken away, 0.01 to 1, default 0.5)")):
        entry = re.search(rf" --{name}=(TEXT|A,B) .*? --\w+=", words)[0]
        assert mine in entry and built_in in entry, entry


def test_each_is_used_recorded_and_restored_after_a_resume(folder):
    # The same by what is built in, in one piece: the momentum of the user's optimizer has to be in the checkpoint.
    codes, output, errors = zip(*answers([
        (*RUN, "--optimizer=heavy_ball", "--steps=3", "--workdir=run"),
        (*RUN, "--optimizer=heavy_ball", "--steps=6", "--workdir=run"),
        (*RUN, "--optimizer=sgd", "--momentum=0.75", "--steps=6", "--workdir=whole")], folder), strict=True)
    assert codes == (0, 0, 0), errors
    stored = json.loads((folder / "run" / "config.json").read_text())
    assert {**OPTIONS, "optimizer": "heavy_ball", "dataset": f"csv:{folder}/stripes.csv"}.items() <= (
        stored["config"].items())
    assert stored["data"]["class_names"] == ["rows", "columns"]
    assert "resume  from the checkpoint of step 3" in output[1]
    assert (folder / "run" / "diary.jsonl").read_text() == "0\n3\n"
    evaluations = metrics(folder / "run", "evaluation")
    assert [r["step"] for r in evaluations] == [3, 6]
    for found in evaluations:
        assert found["same_as_loss"] == found["loss"] and 0 < found["loss"] < 2 and found["always_three"] == 3
    final = result(folder / "run")
    assert (final["test_same_as_loss"], final["test_always_three"]) == (final["test_loss"], 3)
    assert result(folder / "whole")["weights_sha256"] == final["weights_sha256"]
    assert [r["loss"] for r in metrics(folder / "whole", "train")] == [
        r["loss"] for r in metrics(folder / "run", "train")]


def test_an_augmentation_is_a_function_of_seed_and_position(folder):
    config = DataConfig(dataset=f"csv:{folder / 'stripes.csv'}", extension=(str(folder / "mine.py"),),
                        augment=("flip", "dim"))
    split = load(config, 20, Console(quiet=True)).train

    def batches(layout, start):
        stream = train_stream(split, layout, 3, start, augmentations(config))
        return [b["image"].numpy() for b in stream.take(8 - start)]

    one = batches(BatchLayout(20), 0)
    assert (np.ptp(one[0].reshape(20, -1).max(axis=1)) > 60) and len({image.tobytes() for image in one[0]}) == 20
    np.testing.assert_array_equal(batches(BatchLayout(20), 6), one[6:])  # After a resume.
    two = [batches(BatchLayout(20, 2, workers=2, worker=worker), 6) for worker in (0, 1)]
    np.testing.assert_array_equal(np.concatenate(two, axis=1), one[6:])
    resident = TrainIterator(ResidentSplit(split, copy=False), BatchLayout(20, 2), 3, augmentations(config)).open(7)
    batch = resident.get_next()  # With --cache=device each replica augments its own rows.
    np.testing.assert_array_equal(np.concatenate([batch.rows(replica)["image"] for replica in (0, 1)]), one[7])


@pytest.mark.parametrize("function, says", [
    (lambda images, seeds, strength: images + tf.cast(tf.random.uniform(images.shape) * 9, tf.uint8),
     r"uses TensorFlow's RandomUniform, which depends on more than the seeds: draw with pipeline\.data\.stateless"),
    (lambda images, seeds, strength: tf.cast(images, tf.float32), r"must return uint8 images of .*; found .*float32"),
    (lambda images, seeds, strength: images[0, 0, 0, 0, 0, 0], r": .*test_register\.py, line \d+: ")])
def test_an_invalid_augmentation_has_its_location(function, says):
    from pipeline import register
    register.augmentation("mine", unit="levels", low=1, high=9, default=1)(function)
    config = DataConfig(augment=("mine:3",))
    with pytest.raises(UsageError, match=rf"augmentation mine.*{says}") as raised:
        augment.apply(tf.zeros([2, 4, 4, 1], tf.uint8), tf.range(2, dtype=tf.int64), 0, augmentations(config))
    assert "\n" not in str(raised.value)


WRONG = '''
import tensorflow as tf
from pipeline import register


@register.loss("shapeless")
def shapeless(logits, label):
    return tf.reduce_mean(logits)


@register.loss("raising")
def raising(logits, label):
    return {}[label]


class Events:
    def __init__(self, experiment, workdir):
        if workdir == "unmakeable":
            raise OSError("no such host")


for name in ("on_start", "on_window", "on_evaluation", "on_checkpoint", "on_rollback", "on_end", "close"):
    def fail(self, *arguments):
        raise RuntimeError("it broke")
    setattr(Events, name, fail)
register.callback("failing")(Events)
'''
FAILS = WRONG.splitlines().index('        raise RuntimeError("it broke")') + 1


@pytest.fixture
def wrong(tmp_path):
    """The path of an extension whose parts fail, loaded."""
    (tmp_path / "wrong.py").write_text(WRONG)
    extension.load((str(tmp_path / "wrong.py"),))
    return tmp_path / "wrong.py"


def test_errors_of_a_callback_have_their_location(wrong):
    given = {"on_start": Restored(0), "on_window": Window(1, (), None, 0.0, 1.0), "on_checkpoint": 1,
             "on_evaluation": Evaluated(1, None, None, 0.0), "on_rollback": Restored(0),
             "on_end": Ending(1, {}, lambda: False, lambda text: None)}
    events = [name for name in vars(Callback) if not name.startswith("_")]
    assert {*given, "close"} == set(events)
    made = UserCallback("failing", None, "run")
    for name in events:
        with pytest.raises(UsageError) as raised:
            getattr(made, name)(*([given[name]] if name in given else []))
        assert str(raised.value) == f"callback failing: {wrong}, line {FAILS}: RuntimeError: it broke"
    with pytest.raises(UsageError, match=r"wrong\.py, line \d+: OSError: no such host"):
        UserCallback("failing", None, "unmakeable")


@pytest.mark.parametrize("name, says", [
    ("shapeless", r"must return one value an example, shape \[batch\]; found shape"),
    ("raising", r"loss raising: .*wrong\.py, line \d+: ")])
def test_an_invalid_loss_has_its_location(wrong, name, says):
    with pytest.raises(UsageError, match=says) as raised:
        find_loss(name)(tf.zeros([4, 3]), tf.zeros([4], tf.int32))
    assert str(wrong) in str(raised.value) and "\n" not in str(raised.value)


@pytest.mark.parametrize("table", [choices.MODELS, choices.DATASETS, choices.AUGMENTATIONS], ids=lambda t: t.kind)
def test_what_files_declare_is_what_they_define(table):
    """The declarations are read from the text of the files, so that help does not import TensorFlow."""
    built_in = {name: entry for name, entry in table.items() if name not in table.registered}  # Of other tests.
    assert built_in
    for name, entry in built_in.items():
        module, _, origin = entry.origin.partition(":")
        assert entry.load().__module__ == module and entry.load().__name__ == origin, name
    with pytest.raises(UsageError, match=f"{table.kind} '{name}' is built in: give yours another name"):
        table.register(name)(entry.load())


@pytest.mark.parametrize("kind, name, origin, says", [
    ("optimizer", "adam", dict, "optimizer 'adam' is built in: give yours another name"),
    ("optimizer", "mine", math.sqrt, "optimizer 'mine' is no class"),
    ("loss", "cross_entropy", math.sqrt, "loss 'cross_entropy' is built in"),
    ("loss", "mine", dict, "loss 'mine' is no function"), ("metric", "my metric", math.sqrt, "'my metric' cannot be"),
    ("callback", "mine", math.sqrt, "callback 'mine' is no class")])
def test_invalid_registrations_have_their_location(kind, name, origin, says):
    from pipeline import register
    with pytest.raises(UsageError, match=says) as raised:
        getattr(register, kind)(name)(origin)
    assert re.match(rf"{re.escape(__file__)}, line \d+: ", str(raised.value))


@pytest.mark.parametrize("table, wrong_name, nearest", [
    ("OPTIMIZERS", "adm", "did you mean 'adam'"), ("LOSSES", "cross-entropy", "did you mean 'cross_entropy'")])
def test_an_unknown_name_names_the_nearest_and_how_to_add_one(table, wrong_name, nearest):
    with pytest.raises(UsageError, match=rf"{nearest}.*--extension=FILE\.py adds your own"):
        getattr(choices, table).find(wrong_name)
