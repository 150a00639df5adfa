"""``python -m distcorr``: the command line without installing it."""

from distcorr.cli import main

main()
