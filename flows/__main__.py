"""`python -m flows`: the same as `tuneline`."""

from flows.cli import main

main()
