"""The benchmark room: how fast a step is, against what it could be."""
