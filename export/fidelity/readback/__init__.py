"""Reading exported weights back, by other means than they were written with."""
