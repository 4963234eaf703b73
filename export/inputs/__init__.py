"""What goes into an export: the base, its adapters, their pairing, and the merged weights."""
