"""A model's call in training as a pure function of the values of its variables."""
from collections.abc import Sequence
from typing import Any

import keras


def call_in_training(model: keras.Model, trainable: Sequence[Any], non_trainable: Sequence[Any], images: Any
                     ) -> tuple[Any, list[Any], list[Any]]:
    """Calls a model in training without changing it.

    Unlike keras.Model.stateless_call it uses the model's __call__: layers inside that are not passed `training` get it
    from there, as everywhere else in Keras, instead of silently assuming inference. And the losses are those of this
    call alone, even if calls of several replicas are interleaved.

    Args:
      model: built.
      trainable, non_trainable: values of its variables in their order.
      images: [batch, height, width, channels], float.

    Returns:
      (outputs; new values of the non-trainable variables; scalars that layers add to the loss: those added in the call,
      then the penalties of trainable variables with a regularizer).
    """
    mapping = [*zip(model.trainable_variables, trainable, strict=True),
               *zip(model.non_trainable_variables, non_trainable, strict=True)]
    with keras.StatelessScope(state_mapping=mapping, collect_losses=True) as scope:
        outputs = model(images, training=True)
        penalties = [v.regularizer(v.value) for v in model.trainable_variables if v.regularizer is not None]
    state = [scope.get_current_value(variable) for variable in model.non_trainable_variables]
    return outputs, state, [*scope.losses, *penalties]
