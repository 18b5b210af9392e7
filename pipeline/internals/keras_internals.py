"""Private interfaces of Keras 3: its folder, dtypes and tree of layers, saving, the update step of its optimizers."""
import contextlib
import sys
import zipfile
from collections.abc import Iterator

import keras
import tensorflow as tf
from keras.src import dtype_policies
from keras.src.backend import config
from keras.src.saving import saving_lib

H5Store = saving_lib.H5IOStore
read_dataset = saving_lib.safe_get_h5_dataset
FUSED = ("_backend_update_step", "_get_variable_index")  # What the fused updates below override or call.


def set_home(folder: str) -> None:
    """Tells Keras, as it was imported, where it keeps what it downloads."""
    if hasattr(config, "_KERAS_DIR"):
        config._KERAS_DIR = folder


@contextlib.contextmanager
def widened() -> Iterator[None]:
    """Lets layers that are made inside compute in float64 where that is the precision, whatever they ask for.

    A last layer of float32, which mixed precision asks for, would round what float64 is there to compare. A functional
    model calls its layers as it is made, so they have to be wide from the beginning. What a model casts to float32 in
    its call stays so.
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

    dtype_policies.get, keras.Layer.add_weight = wide, add_wide  # Keras asks here for what a layer was given.
    try:
        yield
    finally:
        dtype_policies.get, keras.Layer.add_weight = get, add_weight


def layers_of(model: keras.Model, include_self: bool = True) -> Iterator[keras.layers.Layer]:
    """Yields every layer inside a model, at any depth, in the order in which they were assigned."""
    return model._flatten_layers(include_self=include_self)


def read_member(archive: zipfile.ZipFile, name: str) -> bytes:
    """Returns a file of a Keras archive; raises ValueError for one that would unpack to something huge."""
    return saving_lib._safe_zip_read(archive, name)


def save_state(model: keras.Model, store) -> None:
    """Writes the variables of a model into an H5Store, by the paths that Keras gives them."""
    saving_lib._save_state(model, weights_store=store, assets_store=None, inner_path="", visited_saveables=set())


class AlreadyReduced:
    """Mixed into a Keras optimizer: its gradients were reduced before, the same values on every replica."""

    def _all_reduce_sum_gradients(self, grads_and_vars):
        return grads_and_vars


# From this size of a variable on, a fused kernel pays on CPUs: below, it waits longer for its threads than it saves.
FUSED_ELEMENTS = 2**16


def pays(variable: keras.Variable) -> bool:
    """Tells whether one fused kernel updates a variable faster than Keras's chain of operations."""
    return variable.value.shape.num_elements() >= FUSED_ELEMENTS or "GPU" in variable.value.device


class Fused:
    """Mixed into a Keras optimizer: large variables are updated by one kernel of TensorFlow's.

    The kernel goes over the memory once where Keras's operations do nine times. Called on each replica, it writes that
    replica's own copies: the gradients are the same on all.
    """

    def _backend_update_step(self, grads, trainable_variables, learning_rate):
        pairs = list(zip(grads, trainable_variables, strict=True))
        for gradient, variable in pairs:
            if pays(variable):
                self._apply_kernel(tf.cast(gradient, variable.dtype), variable, tf.cast(learning_rate, variable.dtype))
        rest = [pair for pair in pairs if not pays(pair[1])]
        if rest:
            super()._backend_update_step(*zip(*rest, strict=True), learning_rate)


class FusedAdam(Fused):
    """Mixed into Keras's Adam or AdamW."""

    def _apply_kernel(self, gradient, variable, learning_rate):
        dtype, place = gradient.dtype, self._get_variable_index(variable)
        beta_1, beta_2 = tf.constant(self.beta_1, dtype), tf.constant(self.beta_2, dtype)
        steps = tf.cast(self.iterations.value + 1, dtype)
        tf.raw_ops.ResourceApplyAdam(
            var=variable.value.handle, m=self._momentums[place].value.handle, v=self._velocities[place].value.handle,
            beta1_power=beta_1 ** steps, beta2_power=beta_2 ** steps, lr=learning_rate, beta1=beta_1, beta2=beta_2,
            epsilon=tf.constant(self.epsilon, dtype), grad=gradient)


class FusedMomentum(Fused):
    """Mixed into Keras's SGD with momentum."""

    def _apply_kernel(self, gradient, variable, learning_rate):
        tf.raw_ops.ResourceApplyKerasMomentum(
            var=variable.value.handle, accum=self.momentums[self._get_variable_index(variable)].value.handle,
            lr=learning_rate, grad=gradient, momentum=tf.constant(self.momentum, gradient.dtype),
            use_nesterov=self.nesterov)


def reduced_optimizer(optimizer_class: type, fused: type | None = None) -> type:
    """Returns a subclass of a Keras optimizer whose gradients are reduced already, with fused updates if any.

    Where this version of Keras lacks what the fused updates override, a line on standard error says that they are lost;
    the optimizer then computes the same, within rounding, by Keras's own chain of operations.
    """
    missing = [name for name in FUSED if not hasattr(optimizer_class, name)] if fused else []
    if missing:
        print(f"Keras {keras.__version__} has no {missing[0]} in {optimizer_class.__name__}: the fused update kernel "
              "is lost and steps are slower; install the range of setup.cfg", file=sys.stderr, flush=True)
    mixins = (AlreadyReduced,) if fused is None or missing else (AlreadyReduced, fused)
    return type(optimizer_class.__name__, (*mixins, optimizer_class), {})
