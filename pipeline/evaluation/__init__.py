"""Evaluation of trained models: metrics, reports, comparison, prediction."""
