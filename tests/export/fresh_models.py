"""Trained models without training: fresh ones whose every variable is moved away from what it began with."""
import functools

import numpy as np
import tensorflow as tf

from pipeline.config import ExperimentConfig
from pipeline.evaluation.trained_model import TrainedModel
from pipeline.models import registry
from pipeline.preprocessing import Preprocessing
from pipeline.training.inference import Inference
from pipeline.training.settings import StepSettings

SMALL = {"mlp": (6, 5, 1), "cnn": (9, 8, 3), "resnet_like": (8, 9, 1), "inception": (9, 9, 3),
         "mini_inception": (9, 10, 1), "three_apis": (19, 20, 1)}  # Images that each model just takes.
RANGES = {"three_apis": "caffe"}  # Input ranges that models are given here.
NORMALIZED = {"mlp", "cnn", "mini_inception"}  # Those that are given --normalize=per_channel here.


def perturb(model, seed=0):
    """Moves every float variable of a model: statistics that are their initial ones would hide that they are lost."""
    rng = np.random.default_rng(seed)
    for variable in model.variables:
        if tf.as_dtype(variable.dtype).is_floating:
            shift = rng.uniform(0.01, 0.1, variable.shape) if len(variable.shape) == 1 else 0
            variable.assign(variable.numpy() * rng.uniform(0.7, 1.3, variable.shape) + shift)
        else:
            variable.assign(np.resize([7, 3], variable.shape))  # The state of dropout's generator, or a count.


def trained_model(name, *options, classes=4, image_shape=None):
    """Returns the TrainedModel of a name, with images of SMALL."""
    shape = image_shape or SMALL[name]
    channels = registry.wanted_channels(name, shape[-1])
    config = ExperimentConfig.from_flat({"model": name, "model_options": options, "batch_size": 16})
    model = registry.create(name, classes, (*shape[:2], channels), options)
    perturb(model)
    normalization = (tuple(np.linspace(0.3, 0.5, shape[-1]).tolist()), tuple(np.linspace(0.2, 0.4, shape[-1]).tolist())
                     ) if name in NORMALIZED else (None, None)
    input_range = RANGES.get(name, registry.MODELS[name].row.input_range)
    settings = StepSettings(16, 1, 0, "float32", channels, *normalization, input_range)
    names = tuple(f"class {letter} é" for letter in "abcdefghij"[:classes])
    stored = {"config": config.flat(), "data": {"class_names": list(names), "image_shape": list(shape)},
              "preprocessing": Preprocessing(shape, input_range=input_range).stored()}
    return TrainedModel(config, stored, model, names, Preprocessing.of_run(stored), (1,),
                        Inference(tf.distribute.get_strategy(), model, settings))


@functools.cache
def shared_model(name, *options, image_shape=None):
    """Returns `trained_model`, one for all tests of a process: none of them changes it."""
    return trained_model(name, *options, image_shape=image_shape)


def metadata(trained):
    """Returns those entries of pipeline.export.metadata that forms read."""
    settings = trained.inference.settings
    return {"model": trained.config.model.model, "model_options": list(trained.config.model.model_options),
            "batch_norm_momentum": trained.config.model.batch_norm_momentum,
            "class_names": list(trained.class_names), "image_shape": list(trained.image_shape),
            "preprocessing": {"mean": settings.image_mean and list(settings.image_mean),
                              "deviation": settings.image_std and list(settings.image_std),
                              "channels": settings.image_channels, "input_range": settings.input_range}}


def pixels(trained, count=7, seed=1):
    """Returns uint8 [count, H, W, C] images of a model."""
    return np.random.default_rng(seed).integers(0, 256, (count, *trained.image_shape), np.uint8)
