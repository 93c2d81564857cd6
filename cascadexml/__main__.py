"""`python -m cascadexml` is the command line."""

import sys

from cascadexml.cli import main

sys.exit(main())
