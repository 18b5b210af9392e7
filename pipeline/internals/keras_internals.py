"""Private interfaces of Keras 3: home folder, downloads, dtypes, layers, saving, the update step of optimizers."""
import collections
import contextlib
import random
import zipfile
from collections.abc import Callable, Collection, Iterator, Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from keras.src import dtype_policies
from keras.src.applications import efficientnet
from keras.src.backend import config
from keras.src.backend.common import global_state
from keras.src.legacy.saving import legacy_h5_format
from keras.src.saving import saving_lib
from keras.src.utils import file_utils

from pipeline.console import STANDARD
from pipeline.device_scope import on_gpu
from pipeline.errors import RunFailure

IMAGENET_STD = efficientnet.IMAGENET_STDDEV_RGB  # Of the channels of images in [0, 1].
H5Store = saving_lib.H5IOStore
read_dataset = saving_lib.safe_get_h5_dataset
read_group = saving_lib.safe_get_h5_group
legacy_names = legacy_h5_format.load_attributes_from_hdf5_group
legacy_weights = legacy_h5_format._legacy_weights  # Of a layer, in the order of a legacy .h5 file.
load_legacy_state = legacy_h5_format.load_weights_from_hdf5_group  # Into a model; raises ValueError if it does not fit.
PER_VARIABLE = ("_apply_weight_decay", "_get_variable_index", "iterations", "update_step")
FUSED = ("_backend_update_step", "_get_variable_index")  # What the fused updates below override or call.


def set_home(folder: str) -> None:
    """Sets the folder in which Keras keeps its downloads."""
    if hasattr(config, "_KERAS_DIR"):
        config._KERAS_DIR = folder


def home() -> str:
    """Returns the folder in which Keras keeps its downloads."""
    return config.keras_home()


def is_file_of(path: str, digest: str) -> bool:
    """Tells whether a file has a digest that Keras publishes, MD5 or SHA-256 by its length."""
    return file_utils.validate_file(path, digest)


@contextlib.contextmanager
def downloaded_by(fetch: Callable[..., str]) -> Iterator[None]:
    """Lets Keras's applications take their files from `fetch` inside the block, in place of keras.utils.get_file."""
    original, file_utils.get_file = file_utils.get_file, fetch
    try:
        yield
    finally:
        file_utils.get_file = original


@contextlib.contextmanager
def built_aside() -> Iterator[None]:
    """Builds models on the CPU that leave no trace: later names and seeds are as if they had not been there."""
    drawn, drawn_by_numpy = random.getstate(), np.random.get_state()
    try:
        with named_from_the_start(), tf.device("CPU:0"):
            yield
    finally:
        random.setstate(drawn)
        np.random.set_state(drawn_by_numpy)


@contextlib.contextmanager
def widened() -> Iterator[None]:
    """Makes layers that are created inside the block compute in float64 where that is the precision.

    A last layer with dtype float32, as mixed precision wants it, would round what float64 is there to compare. A
    functional model calls its layers when it is built, so they have to be float64 from the start. Casts to float32 in a
    model's call stay.
    """
    if keras.config.dtype_policy().variable_dtype != "float64":
        yield
        return
    get, add_weight = dtype_policies.get, keras.Layer.add_weight

    def wide(identifier):
        policy = get(identifier)
        return get("float64") if policy.variable_dtype == "float32" and not policy.quantization_mode else policy

    def add_wide(self, *args, dtype=None, **kwargs):
        pinned = dtype is not None and keras.backend.standardize_dtype(dtype) == "float32"
        return add_weight(self, *args, dtype="float64" if pinned else dtype, **kwargs)

    dtype_policies.get, keras.Layer.add_weight = wide, add_wide  # Keras looks the dtype of a layer up here.
    try:
        yield
    finally:
        dtype_policies.get, keras.Layer.add_weight = get, add_weight


@contextlib.contextmanager
def named_from_the_start() -> Iterator[None]:
    """Makes Keras number the layers without a name as in a process that made no layers before.

    Their numbers are in the names of weights, and would depend on what else was made.
    """
    names = "object_name_uids"
    before = global_state.get_global_attribute(names)
    global_state.set_global_attribute(names, collections.defaultdict(int))
    try:
        yield
    finally:
        global_state.set_global_attribute(names, before)


def connections(model: keras.Model) -> Iterator[tuple[Any, Any]]:
    """Yields (operation, operation that takes its output) of a functional model, once for each time it is taken."""
    for operation in model.operations:
        for node in operation._inbound_nodes:
            for tensor in node.arguments.keras_tensors:
                yield tensor._keras_history.operation, operation


def layers_of(model: keras.Model, include_self: bool = True) -> Iterator[keras.layers.Layer]:
    """Yields every layer inside a model, at any depth, in the order of assignment."""
    return model._flatten_layers(include_self=include_self)


def has_seed_generator(layer: keras.layers.Layer) -> bool:
    """Tells whether a layer draws random numbers from a generator of its own."""
    return bool(layer._seed_generators)


def name_scope(layer: keras.layers.Layer) -> Any:
    """Returns the context manager in which Keras names what a layer creates."""
    return layer._open_name_scope()


def read_member(archive: zipfile.ZipFile, name: str) -> bytes:
    """Returns a file of a Keras archive; raises ValueError for one that would unpack to something huge."""
    return saving_lib._safe_zip_read(archive, name)


def save_state(model: keras.Model, store: Any) -> None:
    """Writes the variables of a model into an H5Store, by the paths that Keras gives them."""
    saving_lib._save_state(model, weights_store=store, assets_store=None, inner_path="", visited_saveables=set())


def load_state(model: keras.Model, store: Any, path: str = "", skipped: Collection[str] = ()) -> None:
    """Reads the variables of a model from an H5Store, from the model at `path` in it; seeds stay as they are.

    Layers with variables of `skipped` paths need not fit.

    Raises:
      ValueError: something does not fit.
    """
    seeds = {id(generator) for layer in layers_of(model) for generator in layer._seed_generators}
    failed: set[int] = set()
    errors: dict[int, Any] = {}
    saving_lib._load_state(model, weights_store=store, assets_store=None, inner_path=path, visited_saveables=seeds,
                           failed_saveables=failed, error_msgs=errors)
    for layer, error in errors.values():
        if not any(variable.path in skipped for variable in layer.variables):
            raise ValueError(f"layer {layer.name}: {error}")


class AlreadyReduced:
    """Mixin of a Keras optimizer whose gradients were reduced before and are equal on all replicas."""

    def _all_reduce_sum_gradients(self, grads_and_vars):
        return grads_and_vars


class DecaysInside:
    """Mixin of a Keras optimizer whose own update includes the weight decay."""

    def _apply_weight_decay(self: Any, variables):
        """Leaves the weights alone: Keras calls it before the update."""

    def decay_of(self: Any, variable: tf.Variable) -> float:
        """Returns the weight decay of a variable, 0 for one that is excluded from it."""
        return self.weight_decay if self.weight_decay and self._use_weight_decay(variable) else 0.0


# From this size of a variable on, a fused kernel pays on CPUs: below, starting its threads costs more than it saves.
FUSED_ELEMENTS = 2**16


def pays(variable: keras.Variable) -> bool:
    """Tells whether one fused kernel updates a variable faster than Keras's chain of operations."""
    return variable.value.shape.num_elements() >= FUSED_ELEMENTS or on_gpu()


class Fused:
    """Mixin of a Keras optimizer that updates large variables by one kernel of TensorFlow.

    The kernel passes over the memory once, Keras's operations nine times. Called on each replica, it writes that
    replica's own copies: the gradients are equal on all.
    """

    def _backend_update_step(self, grads: Sequence[tf.Tensor], trainable_variables: Sequence[keras.Variable],
                             learning_rate: tf.Tensor) -> None:
        pairs = list(zip(grads, trainable_variables, strict=True))
        for gradient, variable in pairs:
            if pays(variable):
                self._apply_kernel(tf.cast(gradient, variable.dtype), variable, tf.cast(learning_rate, variable.dtype))
        rest = [pair for pair in pairs if not pays(pair[1])]
        if rest:
            super()._backend_update_step(*zip(*rest, strict=True), learning_rate)  # type: ignore[misc]

    def _apply_kernel(self, gradient: tf.Tensor, variable: keras.Variable, learning_rate: tf.Tensor) -> None:
        raise NotImplementedError


class FusedAdam(Fused):
    """Mixin of Keras's Adam and AdamW."""

    def _apply_kernel(self: Any, gradient, variable, learning_rate):
        dtype, index = gradient.dtype, self._get_variable_index(variable)
        beta_1, beta_2 = tf.constant(self.beta_1, dtype), tf.constant(self.beta_2, dtype)
        steps = tf.cast(self.iterations.value + 1, dtype)
        tf.raw_ops.ResourceApplyAdam(
            var=variable.value.handle, m=self._momentums[index].value.handle, v=self._velocities[index].value.handle,
            beta1_power=beta_1 ** steps, beta2_power=beta_2 ** steps, lr=learning_rate, beta1=beta_1, beta2=beta_2,
            epsilon=tf.constant(self.epsilon, dtype), grad=gradient)


class FusedMomentum(Fused):
    """Mixin of Keras's SGD with momentum."""

    def _apply_kernel(self: Any, gradient, variable, learning_rate):
        tf.raw_ops.ResourceApplyKerasMomentum(
            var=variable.value.handle, accum=self.momentums[self._get_variable_index(variable)].value.handle,
            lr=learning_rate, grad=gradient, momentum=tf.constant(self.momentum, gradient.dtype),
            use_nesterov=self.nesterov)


class PerVariable:
    """Mixin of a Keras optimizer: a factor of the learning rate, and a count of updates, for each variable.

    A variable that begins to train later than others gets what a new optimizer would give it: its slots are zero until
    then, and what depends on the number of updates (Adam's correction of the bias) follows its own.
    """

    _group = 0  # Of the variable that is being updated.

    def set_up(self: Any, factors: Sequence[float], groups: Sequence[int], decayed: Sequence[bool]) -> None:
        """Sets what the variables get, in the order in which the optimizer was built; in the strategy's scope.

        Args:
          factors: of the learning rate and of the decoupled weight decay.
          groups: 0 for variables that train from the first step; others count their own updates.
          decayed: whether the weights decay.
        """
        self._factors, self._groups, self._decayed = tuple(factors), tuple(groups), tuple(decayed)
        self._counts = tuple(self.add_variable((), dtype="int64", aggregation="only_first_replica",
                                               name=f"iteration_{group}") for group in range(1, max(groups) + 1))

    @property
    def iterations(self: Any) -> Any:
        """The number of updates of the variable that is being updated; outside of an update of the first ones."""
        return self._counts[self._group - 1] if self._group else self._iterations

    def apply(self: Any, grads: Sequence[tf.Tensor], trainable_variables: Sequence[keras.Variable]) -> None:
        """Updates the variables, and counts it for each group among them."""
        super().apply(grads, trainable_variables)  # type: ignore[misc]
        for group in sorted({self._groups[self._get_variable_index(v)] for v in trainable_variables} - {0}):
            self._counts[group - 1].assign_add(1)

    @contextlib.contextmanager
    def _updating(self: Any, variable, learning_rate):
        """Counts the updates of a variable in the block; yields its learning rate."""
        index = self._get_variable_index(variable)
        self._group = self._groups[index]
        try:
            yield self._rate(index, learning_rate, variable.dtype)
        finally:
            self._group = 0

    def _rate(self: Any, index, learning_rate, dtype):
        rate, factor = tf.cast(tf.convert_to_tensor(learning_rate), dtype), self._factors[index]
        return rate if factor == 1 else rate * tf.constant(factor, dtype)

    def update_step(self: Any, gradient: tf.Tensor, variable: tf.Variable, learning_rate: Any) -> None:
        """Updates one variable by Keras's operations."""
        with self._updating(variable, learning_rate) as rate:
            super().update_step(gradient, variable, rate)  # type: ignore[misc]

    def _apply_kernel(self: Any, gradient, variable, learning_rate):
        with self._updating(variable, learning_rate) as rate:
            super()._apply_kernel(gradient, variable, rate)  # type: ignore[misc]

    def _apply_weight_decay(self: Any, variables):
        if self.weight_decay is None or isinstance(self, DecaysInside):
            return

        def decay_all(strategy):
            for variable in variables:
                index, dtype = self._get_variable_index(variable), variable.dtype
                if self._decayed[index]:
                    part = self._rate(index, self.learning_rate, dtype) * tf.constant(self.weight_decay, dtype)
                    strategy.extended.update(variable.value, lambda v, part: v.assign_sub(v * part), args=(part,),
                                             group=False)

        tf.distribute.get_replica_context().merge_call(decay_all)


def reduced_optimizer(optimizer_class: type, fused: type | None = None, per_variable: bool = False) -> type:
    """Returns a subclass of a Keras optimizer whose gradients are reduced already, with fused updates if any.

    Where this version of Keras lacks what the fused updates override, a warning says that they are lost; the optimizer
    then computes the same, within rounding, by Keras's own operations. `per_variable`: with PerVariable.
    """
    missing = [name for name in FUSED if not hasattr(optimizer_class, name)] if fused else []
    if missing:
        STANDARD.warning(f"Keras {keras.__version__} has no {missing[0]} in {optimizer_class.__name__}: the fused "
                         "update kernel is lost and steps are slower; install the range of setup.cfg")
    lacks = [name for name in PER_VARIABLE if not hasattr(optimizer_class, name)] if per_variable else []
    if lacks:  # Without it the numbers would be others.
        raise RunFailure(f"Keras {keras.__version__} has no {lacks[0]} in {optimizer_class.__name__}, which learning "
                         "rates of layers and --unfreeze_at need; install the range of setup.cfg")
    mixins = (AlreadyReduced, *([PerVariable] if per_variable else []), *([fused] if fused and not missing else []))
    return type(optimizer_class.__name__, (*mixins, optimizer_class), {})
