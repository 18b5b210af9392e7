"""Export formats of a trained model, their verification, and publishing."""
