"""`python -m edgereason`."""

from edgereason.cli.app import main

main()
