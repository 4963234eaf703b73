"""How the example model that ships with the package is made."""
