"""TensorBoard's data other than scalars, read back with TensorBoard's own code from runs of the real command."""
import io
import itertools
import signal
from collections import Counter

import numpy as np
import pytest
from PIL import Image
from tensorboard.backend.event_processing.data_provider import MultiplexerDataProvider
from tensorboard.backend.event_processing.plugin_event_multiplexer import EventMultiplexer
from tensorboard.context import RequestContext
from tensorboard.plugins.base_plugin import TBContext
from tensorboard.plugins.histogram.summary_v2 import histogram_pb
from tensorboard.plugins.hparams import api_pb2
from tensorboard.plugins.hparams.backend_context import Context
from tensorboard.plugins.hparams.list_session_groups import Handler
from tensorboard.plugins.projector.projector_plugin import ProjectorPlugin
from tensorboard.plugins.text.summary_v2 import text_pb
from tensorboard.util.tensor_util import make_ndarray
from tensorflow.core.framework.graph_pb2 import GraphDef

from pipeline.augmentation import augmentations
from pipeline.callbacks import Ending, Restored
from pipeline.config import DataConfig, ExperimentConfig
from pipeline.console import Console
from pipeline.data.load import load
from pipeline.data.stream import BatchLayout, examples, train_stream
from pipeline.errors import UsageError
from pipeline.monitoring.events import EventWriter, event_files, read_events
from pipeline.monitoring.recorder import Recorder
from pipeline.monitoring.tensorboard.canvas import MARGIN, TITLE, image_value
from pipeline.monitoring.tensorboard.confusion import ConfusionImage, shade
from pipeline.monitoring.tensorboard.histograms import histogram_value
from pipeline.monitoring.tensorboard.model_graph import simplify
from pipeline.monitoring.tensorboard.samples import MistakesImage, sample_captions, worst_mistakes
from pipeline.monitoring.tensorboard.writer import TensorBoardWriter, most_evaluated
from pipeline.run_directory import RunDirectory
from pipeline.training.cadence import plan
from tests.commands import kill_at_step, metrics, mirrorline, result, start
from tests.training import small

BATCH, STEPS = 16, 20
TRAIN = ("train", "--tensorboard=full", "--dataset=digits", "--model=mlp", f"--batch_size={BATCH}",
         "--subset=10", "--epochs=2", "--schedule=constant", "--augment=crop:2",
         "--steps_per_loop=1", "--seed=5", "--learning_rate=0.004")
HISTOGRAMS = "--histograms_every=7"


def train(*more, cwd):
    """Runs the command to a good end."""
    done = mirrorline(*TRAIN, *more, cwd=cwd)
    assert done.returncode == 0, done.stderr


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """A folder of runs with one that was killed and resumed."""
    folder = tmp_path_factory.mktemp("tensorboard")
    process = start(*TRAIN, HISTOGRAMS, "--workdir=runs/killed", cwd=folder)
    code, errors = kill_at_step(process, folder / "runs/killed", 13)
    assert code == -signal.SIGKILL, errors
    train(HISTOGRAMS, "--workdir=runs/killed", cwd=folder)
    return folder


@pytest.fixture(scope="module")
def source():
    return load(DataConfig(subset=10), BATCH, Console(quiet=True))


def events(run, name):
    """Returns every event of a TensorBoard run in order."""
    return [event for path in event_files(str(run / "tensorboard" / name)) for event, _ in read_events(path)]


def values(run, name, plugin):
    """Returns [(step, tag, array)] of everything that a run has for one of TensorBoard's plugins."""
    return [(event.step, value.tag, make_ndarray(value.tensor)) for event in events(run, name)
            for value in event.summary.value if value.metadata.plugin_data.plugin_name == plugin]


def shown_images(run, name, tag):
    """Returns {step: uint8 [H, W, 3]} of the images of a tag."""
    found = {}
    for step, found_tag, array in values(run, name, "images"):
        if found_tag == tag:
            width, height, png = array.tolist()
            image = Image.open(io.BytesIO(png)).convert("RGB")
            assert image.size == (int(width), int(height)) and step not in found
            found[step] = np.asarray(image)
    return found


def provider(folder):
    """Returns TensorBoard's view of a folder of runs."""
    multiplexer = EventMultiplexer().AddRunsFromDirectory(str(folder))
    multiplexer.Reload()
    return TBContext(logdir=str(folder), data_provider=MultiplexerDataProvider(multiplexer, str(folder)))


def test_everything_is_written_once_despite_a_kill(runs):
    run = runs / "runs/killed"
    counts = Counter((step, tag) for name, plugin in itertools.product(("", "train", "validation", "test"), (
        "images", "text", "histograms", "pr_curves", "hparams")) for step, tag, _ in values(run, name, plugin))
    assert set(counts.values()) == {1}, counts
    once = {tag: [step for step, found in counts if found == tag] for _, tag in counts}
    assert once["configuration"] == once["samples"] == once["_hparams_/session_start_info"] == [0]
    assert once["confusion_matrix"] == once["worst_mistakes"] == [10, 20]
    assert once["_hparams_/session_end_info"] == [20]
    assert [step for step, tag in counts if tag == "weights/mlp/hidden/w"] == [7, 14]
    assert sum(bool(event.graph_def) for event in events(run, "train")) == 1


@pytest.mark.acceptance
def test_training_computes_the_same_without_tensorboard(runs):
    train("--tensorboard=scalars", "--workdir=plain", cwd=runs)
    assert result(runs / "plain")["weights_sha256"] == result(runs / "runs/killed")["weights_sha256"]
    assert [r["loss"] for r in metrics(runs / "plain", "train")] == [
        r["loss"] for r in metrics(runs / "runs/killed", "train")]
    assert not [event for name in ("", "train", "validation", "test") for event in events(runs / "plain", name)
                if event.graph_def or any(value.HasField("tensor") for value in event.summary.value)]


def test_samples_are_the_first_batch_as_the_model_sees_it(runs, source):
    layout, config = BatchLayout(BATCH), DataConfig(augment=("crop:2",))
    batch = next(train_stream(source.train, layout, 5, 0, augmentations(config)).as_numpy_iterator())
    shown, top = shown_images(runs / "runs/killed", "train", "samples")[0], MARGIN + TITLE + 12
    first = batch["image"][0].repeat(4, axis=0).repeat(4, axis=1)
    assert (shown[top:top + 112, MARGIN:MARGIN + 112] == first).all()


def test_mixed_samples_are_called_by_both_names():
    lines = sample_captions(np.array([0, 1, 1, 0]), np.array([0.75, 0.75, 0.2, 0.2], np.float32), ("cat", "dog"))
    assert lines == [("75% cat", "25% dog"), ("75% dog", "25% cat"), ("80% cat", "20% dog"), ("80% dog", "20% cat")]
    assert sample_captions(np.array([1]), None, ("cat", "dog")) == [("dog", "")]


def test_the_confusion_matrix_is_shaded_by_the_share_of_the_true_class(runs):
    shown = shown_images(runs / "runs/killed", "validation", "confusion_matrix")
    layout = ConfusionImage(list("0123456789"))
    for record in metrics(runs / "runs/killed", "evaluation"):
        image = shown[record["step"]].astype(int)
        for label, share in enumerate(record["per_class_accuracy"].values()):
            y, x = (origin + label * layout._cell + 4 for origin in (layout._top, layout._left))
            expected = shade(np.eye(10) * share)[label, label].astype(int)
            assert np.abs(image[y, x] - expected).max() <= 4  # Colours of the palette.


def test_confusion_matrices_of_any_number_of_classes_are_drawn():
    for classes in (2, 26, 100, 1500):
        image = ConfusionImage([f"class {i}" for i in range(classes)]).draw(np.eye(classes, dtype=int), "title")
        assert max(image.size) < 1000
    wrong = np.array([[0, 9], [0, 0]])
    drawn = ConfusionImage(["a", "b"])
    y, x = drawn._top + 4, drawn._left + drawn._cell + 4
    red, green, blue = np.asarray(drawn.draw(wrong, "title").convert("RGB"))[y, x].tolist()
    assert red > 150 > 100 > max(green, blue)


def test_the_worst_mistakes_come_first_with_their_images(source):
    rows = np.array([[1, 1, 0.9, 9.0, 0], [2, 3, 0.6, 1.0, 1], [4, 5, 0.8, 7.0, 2], [6, 7, 0.7, np.nan, 3]], np.float32)
    assert worst_mistakes(rows).tolist() == [3, 2, 1] and worst_mistakes(rows, 2).tolist() == [3, 2]
    image = np.asarray(MistakesImage(source.class_names).draw(source.test, rows, 7))
    top = MARGIN + TITLE + 12
    expected = examples(source.test, np.array([3]))[0][0, :, :, 0].repeat(4, axis=0).repeat(4, axis=1)
    assert (image[top:top + 112, MARGIN:MARGIN + 112] == expected).all()
    none = MistakesImage(source.class_names).draw(source.test, rows[:1], 7)
    assert np.asarray(none).min() < 100  # A text.


def test_the_configuration_is_a_page(runs):
    ((_, _, page),) = values(runs / "runs/killed", "train", "text")
    lines = page.item().decode().splitlines()
    assert "| **batch_size** | **16** | 64 |" in lines and "| optimizer | adam | adam |" in lines
    assert any(line.startswith("- **data**: digits: 10 classes, 28×28×1 pixels, 160 train") for line in lines)


def test_the_graph_shows_the_layers_nested_and_no_weights(runs):
    (graph,) = [event.graph_def for event in events(runs / "runs/killed", "train") if event.graph_def]
    names = {node.name: node for node in GraphDef.FromString(graph).node}
    assert len(graph) < 1e6 and {"images", "logits"} <= set(names)
    assert {name.split("/")[0] for name in names} == {"images", "preprocess", "mlp", "logits"}
    assert {name.split("/")[1] for name in names if name.startswith("mlp/")} == {"flatten", "hidden", "relu",
                                                                                "classifier"}
    assert all(source.split(":")[0] in names for node in names.values() for source in node.input)


def test_a_large_constant_keeps_its_shape_alone():
    graph = GraphDef()
    node = graph.node.add(name="net_1/table_1/Const", op="Const")
    node.attr["value"].tensor.tensor_content = bytes(4000)
    node.attr["value"].tensor.tensor_shape.dim.add(size=1000)
    graph.node.add(name="net_1/table/x", op="NoOp")
    graph.node.add(name="Identity", op="Identity", input=["net_1/table_1/Const:0", "^net_1/table/x"])
    simplify(graph, "net")
    assert [(n.name, list(n.input)) for n in graph.node] == [("net/table/Const", []), ("logits", ["net/table/Const:0"])]
    assert graph.ByteSize() < 100 and graph.node[0].attr["value"].tensor.tensor_shape.dim[0].size == 1000


def test_histograms_count_every_weight_and_gradient(runs):
    found = values(runs / "runs/killed", "train", "histograms")
    assert {step for step, _, _ in found} == {7, 14}
    totals = {tag: buckets[:, 2].sum() for step, tag, buckets in found if step == 14}
    assert totals["weights/mlp/hidden/w"] == totals["gradients/mlp/hidden/w"] == 784 * 64
    assert {tag.split("/")[0] for tag in totals} == {"weights", "gradients"} and len(totals) == 8
    gradients = [b for step, tag, b in found if tag == "gradients/mlp/classifier/w"]
    assert all(buckets.shape == (30, 3) and buckets[0, 0] < 0 < buckets[-1, 1] for buckets in gradients)


def test_a_histogram_leaves_out_what_is_no_number():
    buckets = make_ndarray(histogram_value("x", np.array([0, 1, 1, 3, np.nan, np.inf], np.float32)).tensor)
    assert buckets[:, 2].sum() == 4 and buckets[0, 0] == 0 and buckets[-1, 1] == 3 and buckets[9:11, 2].sum() == 2
    for values in (np.full(5, 2.0), np.array([[-1.5, 0.25], [7.0, 3.0]])):
        assert histogram_value("x", values) == histogram_pb("x", values, description="").value[0]


def test_histograms_are_due_at_the_end_of_a_window():
    p = plan(ExperimentConfig.from_flat(dict(steps=40, histograms_every="7", evaluate_every="20")), 1000)
    assert [p.steps_to_boundary(step) for step in (0, 7, 16, 35)] == [7, 7, 4, 5]
    assert [s for s in range(1, 41) if p.is_boundary(p.histograms_every, s)] == [7, 14, 21, 28, 35]
    off = plan(ExperimentConfig.from_flat(dict(steps=40)), 1000)
    assert not any(off.is_boundary(off.histograms_every, step) for step in range(41))
    for options in ({"histograms_every": "often"}, {"tensorboard": "ful"}):
        with pytest.raises(UsageError, match=next(iter(options))):
            ExperimentConfig.from_flat(options)


def test_curves_of_every_class_of_the_test_split(runs, source):
    found = values(runs / "runs/killed", "test", "pr_curves")
    assert [(step, tag) for step, tag, _ in found] == [(20, f"precision_recall/{c}/pr_curves") for c in range(10)]
    counts, correct = np.bincount(source.test.labels, minlength=10), 0
    for label, (_, _, (tp, fp, _, fn, precision, recall)) in enumerate(found):
        assert (tp + fn == counts[label]).all() and tp[0] + fp[0] == len(source.test.labels) and recall[0] == 1
        assert np.allclose(precision[tp + fp > 0], (tp / np.maximum(tp + fp, 1))[tp + fp > 0])
        correct += tp[100]  # A class with a probability of at least a half is the predicted one.
    assert 0 < correct <= result(runs / "runs/killed")["test_accuracy"] * len(source.test.labels) + 0.5


def test_the_projector_finds_the_embeddings(runs, source):
    context = provider(runs / "runs")
    plugin = ProjectorPlugin(context)
    plugin._update_configs()
    assert list(plugin._configs) == ["killed/tensorboard/test"]
    (embedding,) = plugin._configs["killed/tensorboard/test"].embeddings
    count = source.test.num_examples
    assert list(embedding.tensor_shape) == [count, 64]
    folder = runs / "runs/killed/tensorboard/test"
    tensor = np.loadtxt(folder / embedding.tensor_path)
    assert tensor.shape == (count, 64) and np.isfinite(tensor).all() and tensor.std() > 0
    head, *lines = [line.split("\t") for line in (folder / embedding.metadata_path).read_text().splitlines()]
    assert head == ["label", "prediction", "right"]
    assert [line[0] for line in lines] == [str(label) for label in source.test.labels]
    accuracy = result(runs / "runs/killed")["test_accuracy"]
    assert [line[2] == "1" for line in lines] == [line[0] == line[1] for line in lines]
    assert sum(int(line[2]) for line in lines) == round(accuracy * count)
    sprite = np.asarray(Image.open(folder / embedding.sprite.image_path))
    images, _ = examples(source.test, np.array([0, 1]))
    assert (sprite[:28, :28] == images[0, :, :, 0]).all() and (sprite[:28, 28:56] == images[1, :, :, 0]).all()
    assert list(embedding.sprite.single_image_dim) == [28, 28]


def test_the_curves_at_the_end_take_a_small_share_of_the_examples_trained_on():
    assert [most_evaluated(examples) for examples in (10, 30_000, 100_000, 10**6)] == [1000, 1000, 3000, 10_000]


def test_a_run_takes_one_stream_and_one_pass_and_a_longer_one_writes_only_what_is_new(tmp_path, strategy):
    experiment, directory = small.build(strategy(1), precision="float32"), RunDirectory(str(tmp_path))
    recorder, inference = Recorder(directory, 16), experiment.steps.inference
    trained_on = experiment.train_dataset(0)
    writer, before = TensorBoardWriter(experiment, directory, recorder), small.weights(experiment)
    writer.on_start(Restored(0))
    assert experiment.train_dataset(0) is trained_on and experiment.train_dataset(1) is not trained_on
    ending = Ending(9, {"status": "finished", "test_accuracy": 0.1, "test_loss": 2.3}, lambda: False, lambda text: None)
    writer.on_end(ending)
    assert ending.complete and all(map(np.array_equal, before, small.weights(experiment)))
    assert (tmp_path / "tensorboard/test/penultimate.tsv").exists()
    passes = inference.outputs_of_batch, inference.logits_of_batch, inference.evaluate_steps
    assert [function.experimental_get_tracing_count() for function in passes] == [1, 0, 0]
    recorder.close()
    longer, recorder = small.build(strategy(1), precision="float32", steps=40), Recorder(directory, 16)
    recorder.cut_after(9)
    TensorBoardWriter(longer, directory, recorder).on_start(Restored(9))
    recorder.close()
    assert [step for step, _, _ in values(tmp_path, "train", "text")] == [0, 9]
    assert [step for step, _, _ in values(tmp_path, "train", "images")] == [0]
    assert [(step, tag) for step, tag, _ in values(tmp_path, "", "hparams")] == [(0, "_hparams_/session_start_info")]


def test_runs_compare_by_their_hyperparameters(runs):
    request = api_pb2.ListSessionGroupsRequest(
        start_index=0, slice_size=10, allowed_statuses=[api_pb2.STATUS_SUCCESS])
    (group,) = Handler(RequestContext(), Context(provider(runs / "runs")), "", request).run().session_groups
    assert group.sessions[0].name == "killed/tensorboard"
    options = {key: getattr(value, value.WhichOneof("kind")) for key, value in group.hparams.items()}
    assert options["learning_rate"] == 0.004 and options["augment"] == "crop:2" and options["nesterov"] is False
    assert options["epochs"] == 2 and options["steps"] == STEPS and "workdir" not in options
    shown = {(value.name.group, value.name.tag): value.value for value in group.metric_values}
    run = runs / "runs/killed"
    last = metrics(run, "evaluation")[-1]
    assert shown["test", "accuracy"] == pytest.approx(result(run)["test_accuracy"])
    assert shown["validation", "loss"] == pytest.approx(last["loss"])
    assert shown["validation", "accuracy"] == pytest.approx(last["accuracy"])


def test_tensors_are_cut_and_known_again(tmp_path):
    writer, page, image = EventWriter(str(tmp_path)), text_pb("page", "*one*").value[0], Image.new("L", (1, 2))
    writer.tensors(0, 1.0, [page])
    writer.graph(0, 1.0, b"\x12\x00")
    for step in (1, 2, 3):
        writer.scalars(step, 1.0, {"loss": 1.0})
        writer.tensors(step, 1.0, [image_value("image", image, f"of step {step}")])
    assert writer.latest("image")[0] == 3
    writer.close()
    again = EventWriter(str(tmp_path))
    assert again.latest("page") is None
    again.cut_after(2)
    assert again.latest("image") == (2, image_value("image", image, "of step 2"))
    assert again.latest("page") == (0, page) and again.latest("graph")[0] == 0
    assert again.latest("loss") is None
    again.cut_after(-1)
    assert again.latest("page") is None and not again.latest("graph")
