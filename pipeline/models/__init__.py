"""Layers, models, the table of their names, and how they are shown."""
