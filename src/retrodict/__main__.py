"""`python -m retrodict`."""

from retrodict.cli.app import main

main()
