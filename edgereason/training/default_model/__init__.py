"""How the default model is made from nothing but a seed: `python -m edgereason.training.default_model --help`."""
