"""How models are shown: layer table, record of calls, image, and the command."""
import functools
import io

import keras
import pytest
import tensorflow as tf
from absl import flags

from launch.commands import inspect
from pipeline.config import ExperimentConfig
from pipeline.errors import UsageError
from pipeline.models import registry
from pipeline.models.drawing import draw, record_calls
from pipeline.models.layout import NODE_HEIGHT, NODE_WIDTH, place
from pipeline.models.table import layer_table, show
from pipeline.models.tensor_cores import misses
from tests.selection import quick

MINI_INCEPTION = """\
mini_inception
layer        class                   output shape  parameters
input        Input                   32x32x3                0
conv         ConvBlock               32x32x96           3,072
inception1   InceptionBlock          32x32x64          31,040
inception2   InceptionBlock          32x32x80          30,096
downsample1  DownsampleBlock         15x15x160         58,000
inception3   InceptionBlock          15x15x160         87,840
inception4   InceptionBlock          15x15x160        108,320
inception5   InceptionBlock          15x15x160        128,800
inception6   InceptionBlock          15x15x144        146,640
downsample2  DownsampleBlock         7x7x240          124,896
inception7   InceptionBlock          7x7x336          389,520
inception8   InceptionBlock          7x7x336          544,656
pool         GlobalAveragePooling2D  336                    0
classifier   Dense                   10                 3,370
parameters: 1,656,250 total, 1,652,826 trainable, 3,424 non-trainable"""

# Leaf layers and the input; a chain of n nodes has n - 1 edges, and each parallel branch one more.
SIZES = {"mlp": (5, 4), "cnn": (12, 11), "resnet_like": (39, 41), "inception": (51, 57), "mini_inception": (72, 81),
         "three_apis": (9, 8)}


@functools.cache
def made(name, *options):
    """Returns (model, shape of its images), made once."""
    shape = registry.MODELS[name].row.example_shape
    return registry.create(name, 10, shape, options), shape


@functools.cache
def recorded(name, *options):
    return record_calls(*made(name, *options))


def test_depth_shows_inner_blocks_with_their_shapes():
    model, shape = made("resnet_like")
    rows = {depth: layer_table(model, shape, depth).rows for depth in (1, 2, 3)}
    assert [len(rows[depth]) for depth in (1, 2, 3)] == [6, 6 + 3 * 6, 6 + 3 * 6 + 3 * 3 * 3]
    inner = next(row for row in rows[2] if row.name == "conv3")
    assert (inner.depth, inner.class_name, inner.output_shape, inner.parameters) == (
        2, "ConvBlock", (28, 28, 64), 32 * 64 * 9 + 64 + 4 * 64)
    assert sum(row.parameters for row in rows[1]) == model.count_params()


class Terminal(io.StringIO):
    def isatty(self):
        return True


def test_the_table_on_a_terminal_has_rules_and_all_cells():
    file, (model, shape) = Terminal(), made("cnn")
    show(layer_table(model, shape), file)
    for text in ("block1", "ConvBlock", "28x28x128", "1,003,530", "1,096,650 trainable", "──"):
        assert text in file.getvalue()


@pytest.mark.parametrize("name", quick(list(SIZES), 0, 2, 5))
def test_nodes_and_edges(name):
    graph = recorded(name)
    assert (len(graph.nodes), len(graph.edges)) == SIZES[name]
    assert graph.nodes[0].class_name == "Input" and graph.nodes[-1].output_shape == (None, 10)
    assert {b for _, b in graph.edges} == set(range(1, len(graph.nodes)))  # Everything comes from somewhere,
    assert {a for a, _ in graph.edges} == set(range(len(graph.nodes) - 1))  # and all but the last goes somewhere.


def test_branches_begin_and_join():
    graph = recorded("resnet_like")
    names = [".".join(node.path) for node in graph.nodes]
    edges = {(names[a], names[b]) for a, b in graph.edges}
    assert {("block1.pool", "block2.identity"), ("block1.pool", "block2.conv1.convolution"),
            ("block2.identity", "block2.add"), ("block2.conv2.relu", "block2.add")} <= edges
    layout = place(graph)
    x = dict(zip(names, (x for x, _ in layout.nodes), strict=True))
    assert x["block2.identity"] >= x["block2.conv1.convolution"] + NODE_WIDTH  # Side by side.
    assert x["block2.conv1.convolution"] < x["block2.add"] < x["block2.identity"]


@pytest.mark.parametrize("name", quick(list(SIZES), 0, 2, 5))
def test_nothing_overlaps(name):
    layout = place(recorded(name))
    corners = [(x - NODE_WIDTH / 2, y, x + NODE_WIDTH / 2, y + NODE_HEIGHT) for x, y in layout.nodes]

    def apart(a, b):
        return a[2] <= b[0] or b[2] <= a[0] or a[3] <= b[1] or b[3] <= a[1]

    assert all(apart(a, b) for i, a in enumerate(corners) for b in corners[:i])
    blocks = [(path, box) for path, box in layout.boxes.items()]
    assert all(apart(a, b) for i, (path, a) in enumerate(blocks) for other, b in blocks[:i] if path[:-1] == other[:-1])
    assert all(0 <= x <= layout.width and 0 <= y <= layout.height for line in layout.lines for x, y in line)
    assert all(0 <= a and 0 <= b and c <= layout.width and d <= layout.height for a, b, c, d in corners)


def test_merges_by_plain_functions_are_recorded():
    class Plain(keras.Model):
        def __init__(self):
            super().__init__()
            self.one, self.two, self.three = (keras.layers.Dense(4, name=name) for name in ("one", "two", "three"))
            self.drop, self.head = keras.layers.Dropout(0.5, name="drop"), keras.layers.Dense(2, name="head")

        def call(self, x, training=False):
            x = self.one(keras.ops.mean(x, (1, 2)))
            y = self.drop(x, training=training)  # Returns x itself here, and is not the layer that made it.
            return self.head(tf.concat([self.two(x), tf.nn.relu(self.three(y) + y)], axis=-1))

    model = Plain()
    model(tf.zeros((1, 4, 4, 3)))
    graph = record_calls(model, (4, 4, 3))
    names = [node.name for node in graph.nodes]
    assert {(names[a], names[b]) for a, b in graph.edges} == {
        ("input", "one"), ("one", "drop"), ("one", "two"), ("drop", "three"), ("two", "head"), ("three", "head"),
        ("drop", "head")}
    place(graph)


def test_recording_does_not_change_the_model():
    model = registry.create("cnn", 10, (28, 28, 1))
    x = tf.ones((1, 28, 28, 1))
    before = model(x)
    record_calls(model, (28, 28, 1))
    assert not any("call" in layer.__dict__ for layer in model._flatten_layers())
    assert (model(x).numpy() == before.numpy()).all()


@pytest.mark.parametrize("name", quick(["resnet_like", "three_apis"], 1))
def test_images_of_graphs_are_written(name, tmp_path):
    draw(recorded(name), tmp_path / "graph.png")
    image = tf.io.decode_png((tmp_path / "graph.png").read_bytes())
    height, width, _ = image.shape
    assert 0.5 < width / height < 2 and width > 600  # Fits a page, and can be read there.
    assert len(set(map(tuple, image.numpy()[::7, ::7].reshape(-1, image.shape[-1]).tolist()))) > 8
    draw(recorded(name), tmp_path / "graph.svg")
    assert "<!-- GlobalAveragePool -->" in (tmp_path / "graph.svg").read_text()


def command(*arguments, **options):
    flag_values = flags.FlagValues()
    inspect.define(flag_values)
    flag_values(["inspect", *arguments])
    return inspect.run(ExperimentConfig.from_flat(options), flag_values)


def test_command_prints_the_table_of_the_documented_input(capsys):
    assert command("--depth=1", model="mini_inception") == 0
    assert capsys.readouterr().out == MINI_INCEPTION + "\n"


def test_half_precision_marks_what_tensor_cores_pad(capsys):
    assert command("--depth=1", model="mini_inception", precision="mixed_bfloat16", batch_size=30) == 0
    lines = capsys.readouterr().out.splitlines()
    marked = {line.split()[0]: line.split()[3:-1] for line in lines[2:-2] if len(line.split()) > 4}
    assert lines[1].split("  ")[-2].strip() == "no multiple of 8"
    assert marked == {"conv": ["convolution", "in", "3"], "classifier": ["out", "10"]}
    assert lines[-1].startswith("batch: 30 examples, no multiple of 8,")
    # One layer of each kind with sizes that miss: channels of a group, of a separable convolution, heads together.
    layers = {"conv": (keras.layers.Conv2D(24, 3, groups=2), (8, 8, 16), "out 12"),
              "separable": (keras.layers.SeparableConv2D(5, 3), (8, 8, 8), "out 5"),
              "depthwise": (keras.layers.DepthwiseConv2D(3), (8, 8, 9), ""),
              "einsum": (keras.layers.EinsumDense("abc,cde->abde", (None, 3, 4)), (5, 7), "in 7, out 12")}
    for layer, shape, text in layers.values():
        layer.build((None, *shape))
        assert misses(layer, inside=True) == text


def test_command_lists_all_models_without_building_one(capsys):
    assert command("--models") == 0
    lines = {line.split()[0]: line.split() for line in capsys.readouterr().out.splitlines() if line.strip()}
    assert set(lines) >= set(registry.MODELS) - set(registry.MODELS.registered)
    assert lines["vit_ti16"][1:] == ["5.68", "1,246.6", "224x224x3", "1000", "-1..1"]
    assert lines["resnet50"][-3:] == ["1000", "caffe", "74.9%"]
    for stray in ("--depth=3", "--classes=3"):
        with pytest.raises(UsageError, match=f"--models lists all models, .* leave out {stray.partition('=')[0]}"):
            command("--models", stray)


def test_command_takes_shape_classes_and_options_and_draws(capsys, tmp_path):
    plot = tmp_path / "graph.png"
    assert command("--input_shape=24x16x2", "--classes=3", f"--plot={plot}", model="resnet_like",
                   model_options=("identity_kernel=3",)) == 0
    out = capsys.readouterr().out
    assert "input       Input                   24x16x2" in out and f"graph: {plot}" in out
    assert f"classifier  Dense                   3                  {512 * 3 + 3:,}" in out
    assert plot.read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize("arguments, model, message", [
    (("--input_shape=32",), "cnn", "--input_shape must be HxWxC, e.g. 32x32x3; found '32'"),
    (("--input_shape=4x4x1",), "inception", "at least 7x7; found 4x4x1"),
    (("--plot=graph.bmp",), "cnn", "cannot draw 'graph.bmp'"),
    (("--plot=/nowhere/graph.png",), "cnn", "there is no folder '/nowhere'"),
    ((), "resnet_lik", "did you mean 'resnet_like'?"),
], ids=lambda value: str(value)[:30])
def test_command_refuses_what_it_cannot_do(arguments, model, message, capsys):
    with pytest.raises(UsageError) as error:
        command(*arguments, model=model)
    assert message in str(error.value) and capsys.readouterr().out == ""
