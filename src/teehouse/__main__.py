"""`python -m teehouse`: the same as the `teehouse` command."""

import sys

from teehouse.stack.main import run

if __name__ == "__main__":
    sys.exit(run())
