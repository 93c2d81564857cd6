"""`python -m cascadexml` is the command line."""

from cascadexml.cli import main

main(prog_name="cascadexml")
