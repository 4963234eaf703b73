"""Sampling attempts from a model under training."""
