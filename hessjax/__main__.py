"""`python -m hessjax`: the same as the `hessjax` command."""

from hessjax.cli import entry

entry()
