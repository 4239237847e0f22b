"""`python -m hessjax`: the same as the `hessjax` command."""

import sys

from hessjax.cli import main

sys.exit(main())
