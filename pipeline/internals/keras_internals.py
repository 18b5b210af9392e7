"""Private interfaces of Keras 3: the tree of layers, the saving library, and the update step of its optimizers."""
import sys
import zipfile
from collections.abc import Iterator

import keras
import tensorflow as tf
from keras.src.saving import saving_lib

H5Store = saving_lib.H5IOStore
read_dataset = saving_lib.safe_get_h5_dataset
FUSED = ("_backend_update_step", "_get_variable_index")  # What the fused updates below override or call.


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
