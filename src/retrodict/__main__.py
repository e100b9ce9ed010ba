"""`python -m retrodict`."""

from retrodict.cli import main

main()
