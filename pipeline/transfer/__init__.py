"""Training that does not begin at nothing: weights taken over from a model that was trained, and weights that stay."""
