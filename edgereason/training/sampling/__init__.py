"""Drawing attempts from a model under training."""
