"""The evaluation room: what is said about a trained model."""
