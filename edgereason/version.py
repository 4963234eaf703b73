"""The version of this package, for manifests and caches."""

__version__ = "0.2.0.dev0"
