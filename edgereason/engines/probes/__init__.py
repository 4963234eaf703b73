"""Micro models that `edgereason.engines.probe` decodes; `make.py` makes them."""
