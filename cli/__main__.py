"""`python -m cli`, for environments whose scripts folder is not on the path."""

from cli.main import main

main()
