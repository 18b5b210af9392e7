"""Sweeps: the search space, proposals and pruning, the processes of trials, the leaderboard."""
