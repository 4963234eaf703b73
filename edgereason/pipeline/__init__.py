"""Guidance, then answer: the two-stage pipeline and everything that asks it."""
