"""`python -m bridge WORD ...` is `frameloom WORD ...`."""

import signal
import sys

from bridge.commands.cli import main

status = main()
# All that is left is the interpreter's own end: Ctrl-C meanwhile cuts it short, without a traceback.
signal.signal(signal.SIGINT, signal.SIG_DFL)
sys.exit(status)
