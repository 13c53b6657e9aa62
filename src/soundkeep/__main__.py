"""`python -m soundkeep`."""

from soundkeep.cli import main

main()
