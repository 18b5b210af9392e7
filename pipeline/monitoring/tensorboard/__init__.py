"""What TensorBoard shows of a run beside scalars."""
from pipeline.monitoring.tensorboard.writer import Board, NoBoard, create_board

__all__ = ["Board", "NoBoard", "create_board"]
