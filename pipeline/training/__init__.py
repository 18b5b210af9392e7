"""The training room: state, step, loop, optimizer, checkpoint, preemption."""
