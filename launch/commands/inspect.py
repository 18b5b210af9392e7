"""mirrorline inspect: all models, the layers and the graph of one, or a sheet of augmented images; without training."""
import re
import sys
from collections.abc import Iterable

from absl import flags

from flags import define_path, given_options
from pipeline import extension
from pipeline.augmentation import augmentations, check_strengths
from pipeline.choices import MODELS
from pipeline.config import ExperimentConfig
from pipeline.console import STANDARD
from pipeline.console_table import open_console, print_rows
from pipeline.errors import UsageError
from pipeline.finetuning import UnfreezePoint

# Imports inside functions: `--help` and wrong usage answer without TensorFlow.

SUMMARY = "list the models, show a model's layers, shapes and parameters, draw its graph, or draw augmented images"
PLACE = 110
GROUPS = ("model",)
OF_DATA = ("dataset", "data_dir", "columns", "image_root", "image_size", "resize", "interpolation", "validation_split",
           "fold", "subset", "augment", "memory_budget", "skip_unreadable", "cache_dir", "seed")
OF_RATES = ("freeze", "unfreeze_at", "layer_decay", "lr_multipliers")
OF_CORES = ("precision", "batch_size")  # Tensor Cores.
ONLY = ("extension", "layer_decay", "lr_multipliers", *OF_CORES, *OF_DATA)
COLUMNS = ("model", "parameters (M)", "multiply-adds (M)", "images", "classes", "input range", "ImageNet top-1")
WIDTH = 120  # Of the table of models, where it is not for a terminal.
OF_MODEL = ("depth", "input_shape", "classes")


def define(flag_values: flags.FlagValues) -> None:
    """Defines the flags of this command alone."""
    flags.DEFINE_bool("models", False, "list all models: parameters, operations, size and range of their images",
                      flag_values=flag_values)
    flags.DEFINE_integer("depth", 2, "depth of nested layers that are shown; 1: only those that the model calls",
                         lower_bound=1, flag_values=flag_values)
    define_path("plot", None, "draw the graph of layer calls, or with --augment a sheet of training images, into this "
                "file: .png, .pdf or .svg", flag_values)
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
    """Prints the table of the configured model, or draws augmented images; returns the exit code."""
    given = given_options(flag_values)
    if flag_values.models:
        return list_models(config, flag_values, given)
    if "augment" in given:
        _check_sheet(flag_values, given)
        return draw_augmented(config, flag_values.plot)
    stray = [name for name in OF_DATA if name in given]
    if stray:
        raise UsageError(f"--{stray[0]} belongs to a sheet of augmented images: give --augment=flip,crop and "
                         "--plot=sheet.png with it, or leave it out to show a model")
    return show_model(config, flag_values)


def list_models(config: ExperimentConfig, flag_values: flags.FlagValues, given: Iterable[str]) -> int:
    """Prints the table of models, those of --extension among them; returns the exit code."""
    stray = [name for name in (*given, *(n for n in (*OF_MODEL, "plot") if not flag_values[n].using_default_value))
             if name != "extension"]
    if stray:
        raise UsageError(f"--models lists all models, and shows none of them: leave out --{stray[0]}, or --models")
    extension.load(config.data.extension)
    rows = [(name, f"{row.parameters / 1e6:,.2f}" if row.parameters else "",
             f"{row.multiply_adds / 1e6:,.1f}" if row.multiply_adds else "",
             "x".join(map(str, row.example_shape)), str(row.classes), row.input_range,
             f"{row.top1:.1f}%" if row.top1 else "")
            for name, row in sorted((name, entry.row) for name, entry in MODELS.items())]
    print_rows(open_console(sys.stdout, WIDTH), COLUMNS, rows, left=(0, 3, 5), fold=())
    print("Parameters and multiply-adds (of convolutions and matrix products, in a forward pass of one image) for "
          "these images and classes; top-1 accuracy of the weights that Keras publishes, where it does.")
    return 0


def show_model(config: ExperimentConfig, flag_values: flags.FlagValues) -> int:
    """Prints the table of the configured model and draws its graph into --plot; returns the exit code."""
    from pipeline.models import registry, table, tensor_cores
    from pipeline.models.trained_weights import trained_weights
    half, size = config.runtime.precision in tensor_cores.HALF, config.training.batch_size
    if "batch_size" in given_options(flag_values) and not half:
        raise UsageError("--batch_size is checked for half precision: give --precision=mixed_bfloat16 too, or leave it "
                         "out")
    extension.load(config.data.extension)
    input_shape = parse_shape(flag_values.input_shape) if flag_values.input_shape else (
        registry.MODELS.find(config.model.model).row.example_shape)
    plot = flag_values.plot
    if plot:
        from pipeline.models import drawing  # matplotlib takes a while to load.
        drawing.check_path(plot)
    model = registry.create(config.model.model, flag_values.classes, input_shape,
                            config.model.model_options, config.model.batch_norm_momentum)
    points = enumerate(UnfreezePoint.parse(config.model.unfreeze_at), 1)
    trained = trained_weights(model, config, input_shape, [(number, point.patterns) for number, point in points])
    factors = trained.factors if any(name in given_options(flag_values) for name in OF_RATES) else None
    table.show(table.layer_table(model, input_shape, flag_values.depth, factors, half), sys.stdout)
    if half:
        print(f"batch: {size} examples, {'no' if size % tensor_cores.MULTIPLE else 'a'} multiple of "
              f"{tensor_cores.MULTIPLE}, which Tensor Cores want of channels, units and the examples of each GPU")
    if plot:
        drawing.draw(drawing.record_calls(model, input_shape), plot)
        print(f"graph: {plot}")
    return 0


def draw_augmented(config: ExperimentConfig, plot: str) -> int:
    """Draws training examples of the configured data set as --augment shows them; returns the exit code."""
    from pipeline.models.drawing import check_path
    check_path(plot)
    extension.load(config.data.extension)
    check_strengths(config.data.augment)
    from pipeline.data.load import load
    from pipeline.data.unused_options import warn_unused
    from pipeline.evaluation.augmentation_figure import EPOCHS, draw_sheet
    source = load(config.data, config.training.batch_size)
    check_strengths(config.data.augment, source.image_shape)
    warn_unused(config.data, source, STANDARD)
    examples = draw_sheet(plot, source, augmentations(config.data), config.training.seed)
    print(f"sheet: {plot}, {examples} of {source.train.num_examples:,} training examples, the first {EPOCHS} epochs of "
          f"a training on these alone with seed {config.training.seed}")
    return 0


def _check_sheet(flag_values, given):
    """Raises UsageError for --augment without a file, or with flags of the table of layers."""
    if not flag_values.plot:
        raise UsageError("--augment draws a sheet of images: give the file, --plot=sheet.png")
    stray = [name for name in (*given, *(n for n in OF_MODEL if not flag_values[n].using_default_value))
             if name not in ONLY or name in OF_CORES]
    if stray:
        raise UsageError(f"--augment draws images and shows no model: leave out --{stray[0]}, or --augment")
