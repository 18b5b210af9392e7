"""A trained model in the forms its users need, and the proof that each says what the model says."""
