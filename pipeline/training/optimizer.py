"""Keras's optimizers, told that their gradients are sums over all replicas already, and with one kernel a variable."""
import keras
import tensorflow as tf

from pipeline.errors import RunFailure


class AlreadyReduced:
    """Mixed into a Keras optimizer: its gradients were reduced before, the same values on every replica."""

    def _all_reduce_sum_gradients(self, grads_and_vars):
        return grads_and_vars


# From this size of a variable on, a fused kernel pays on CPUs: below, it waits longer for its threads than it saves.
FUSED_ELEMENTS = 2**16


def pays(variable):
    """Tells whether one fused kernel updates a keras.Variable faster than Keras's chain of operations."""
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


def _already_reduced(optimizer_class, *mixins):
    return type(optimizer_class.__name__, (AlreadyReduced, *mixins, optimizer_class), {})


def create_optimizer(config, model):
    """Makes and builds the optimizer of a model; call it inside the strategy's scope.

    Weight decay is decoupled (Loshchilov and Hutter, arXiv:1711.05101) for every optimizer, and spares vectors
    (biases, scale and offset of normalization) unless `decay_all`. The learning rate is assigned by the step.

    Args:
      config: OptimizerConfig.
      model: a built keras.Model.

    Returns:
      A built keras.optimizers.Optimizer.
    """
    classes = {"sgd": keras.optimizers.SGD, "adam": keras.optimizers.Adam, "adamw": keras.optimizers.AdamW,
               "lamb": keras.optimizers.Lamb, "lion": keras.optimizers.Lion}
    arguments, mixins = {}, {"adam": [FusedAdam], "adamw": [FusedAdam]}.get(config.optimizer, [])
    if config.optimizer == "sgd":
        arguments = {"momentum": config.momentum, "nesterov": config.nesterov}
        mixins = [FusedMomentum] if config.momentum else []
    optimizer = _already_reduced(classes[config.optimizer], *mixins)(
        learning_rate=config.learning_rate, weight_decay=config.weight_decay, **arguments)
    if not config.weight_decay:
        optimizer.weight_decay = None  # Keras would multiply every weight by zero each step.
    if not config.decay_all:
        spared = [v for v in model.trainable_variables if len(v.shape) < 2]
        if spared:
            optimizer.exclude_from_weight_decay(var_list=spared)
    optimizer.build(model.trainable_variables)
    return optimizer


def check_reduced_once(run, strategy):
    """Proves that this version of Keras reduces nothing a second time: one update by ones must move by one.

    Args:
      run: a function (strategy, replica function) -> None that runs it on every replica.
      strategy: tf.distribute.Strategy.

    Raises:
      RunFailure: the gradient was reduced again (the override of Keras's private method had no effect).
    """
    with strategy.scope():
        variable = keras.Variable([0.0], name="probe")
        optimizer = _already_reduced(keras.optimizers.SGD)(learning_rate=1.0)
        optimizer.build([variable])
    # A tensor of the replica's own: the same one on all has no device, and Keras could not reduce it.
    run(strategy, lambda ones: optimizer.apply([tf.identity(ones)], [variable]))
    moved = float(variable.numpy()[0])
    if moved != -1.0:
        raise RunFailure(f"an update by a reduced gradient of 1 moved a weight by {moved:g} instead of -1: this "
                         f"version of Keras ({keras.__version__}) reduces gradients twice; install the range of "
                         "setup.cfg")
