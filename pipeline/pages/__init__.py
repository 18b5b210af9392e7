"""Pages that load nothing: what those of a benchmark and of an evaluation share, their look, elements and plots."""
