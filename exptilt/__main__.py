"""`python -m exptilt`."""

import sys

from exptilt.cli import main

sys.exit(main())
