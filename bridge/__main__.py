"""`python -m bridge WORD ...` is `frameloom WORD ...`."""

import sys

from bridge.cli import main

sys.exit(main())
