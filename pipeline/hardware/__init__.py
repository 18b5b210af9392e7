"""The hardware room: what the machine can do, how much memory it has, and how many operations a graph takes of it."""
