"""`python -m bench` is the command `cambench`."""

from bench.cli import main

main()
