"""A model's call in training as a function: values of its variables go in, and new ones come out."""
import keras


def call_in_training(model, trainable, non_trainable, images):
    """Calls a model in training without changing it.

    Unlike keras.Model.stateless_call it goes through the model's __call__: layers inside that are not given `training`
    learn it from there, as everywhere else in Keras, instead of taking it for inference without a word. And losses are
    those of this call alone, also where the replicas' calls of one model take turns.

    Args:
      model: built keras.Model.
      trainable, non_trainable: lists of tensors, values of its variables in their order.
      images: [batch, height, width, channels], float.

    Returns:
      (outputs; list of tensors, new values of the non-trainable variables; list of scalars, what layers add to the
      loss: what they added in the call, then the penalties of trainable variables with a regularizer).
    """
    mapping = [*zip(model.trainable_variables, trainable, strict=True),
               *zip(model.non_trainable_variables, non_trainable, strict=True)]
    with keras.StatelessScope(state_mapping=mapping, collect_losses=True) as scope:
        outputs = model(images, training=True)
        penalties = [v.regularizer(v.value) for v in model.trainable_variables if v.regularizer is not None]
    state = [scope.get_current_value(variable) for variable in model.non_trainable_variables]
    return outputs, state, [*scope.losses, *penalties]
