"""`python -m bridge WORD ...` is `frameloom WORD ...`."""

import sys

from bridge.commands.cli import main

sys.exit(main())
