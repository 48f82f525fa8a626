"""`python -m bitfuse` is the command `bitfuse`."""

from bitfuse.cli import main

main()
