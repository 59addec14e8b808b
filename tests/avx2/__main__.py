"""See the package."""

import sys

from tests.avx2 import main

sys.exit(main(sys.argv[1:]))
