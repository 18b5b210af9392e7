"""The built-in callbacks: metrics log, TensorBoard, progress, goodput, profiles, alerts and system metrics."""
