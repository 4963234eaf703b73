"""Reading exported weights back, by other code than they were written by."""
