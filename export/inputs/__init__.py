"""The inputs of an export: base, adapters, their pairing, and the merged weights."""
