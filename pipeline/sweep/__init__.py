"""Searching for settings: what is varied, which values are tried next, the trials' processes, and who leads."""
