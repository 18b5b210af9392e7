"""mirrorline inspect: the layer table and the graph of a model, without data or training."""
import re
import sys

from absl import flags

from flags import define_path
from pipeline import extension
from pipeline.config import ExperimentConfig
from pipeline.errors import UsageError

# Imports inside functions: `--help` and wrong usage answer without TensorFlow.

SUMMARY = "show a model's layers, output shapes and parameters, and draw its graph"
PLACE = 110
GROUPS = ("model",)
ONLY = ("extension",)


def define(flag_values: flags.FlagValues) -> None:
    """Defines the flags of this command alone."""
    flags.DEFINE_integer("depth", 2, "depth of nested layers that are shown; 1: only those that the model calls",
                         lower_bound=1, flag_values=flag_values)
    define_path("plot", None, "draw the graph of layer calls into this file: .png, .pdf or .svg", flag_values)
    flags.DEFINE_string("input_shape", None, "images as HxWxC, e.g. 32x32x3 (pixels, pixels, channels); default: "
                        "those that the model is documented for", flag_values=flag_values)
    flags.DEFINE_integer("classes", 10, "number of classes", lower_bound=1, flag_values=flag_values)


def parse_shape(text: str) -> tuple[int, int, int]:
    """Parses "32x32x3" as (32, 32, 3); raises UsageError for anything else."""
    match = re.fullmatch(r"(\d+)x(\d+)x(\d+)", text)
    if not match:
        raise UsageError(f"--input_shape must be HxWxC, e.g. 32x32x3; found '{text}'")
    height, width, channels = map(int, match.groups())
    return height, width, channels


def run(config: ExperimentConfig, flag_values: flags.FlagValues) -> int:
    """Prints the table of the configured model and draws its graph into --plot; returns the exit code."""
    from pipeline.models import registry, table
    from pipeline.models.freezing import freeze
    extension.load(config.data.extension)
    input_shape = parse_shape(flag_values.input_shape) if flag_values.input_shape else (
        registry.MODELS.find(config.model.model).row.example_shape)
    plot = flag_values.plot
    if plot:
        from pipeline.models import drawing  # matplotlib takes a while to load.
        drawing.check_path(plot)
    model = registry.create(config.model.model, flag_values.classes, input_shape,
                            config.model.model_options, config.model.batch_norm_momentum)
    freeze(model, config.model.freeze, input_shape)
    table.show(table.layer_table(model, input_shape, flag_values.depth), sys.stdout)
    if plot:
        drawing.draw(drawing.record_calls(model, input_shape), plot)
        print(f"graph: {plot}")
    return 0
