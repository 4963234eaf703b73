"""How commands show progress, plans and tables."""
