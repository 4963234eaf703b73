"""Progress of long work: bars on a terminal, elsewhere a line every 15 seconds, or JSON objects for machines."""
