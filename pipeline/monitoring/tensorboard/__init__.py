"""What TensorBoard shows of a run beside scalars."""
