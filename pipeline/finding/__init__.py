"""Settings that are found before a training: the learning rate and the batch size."""
