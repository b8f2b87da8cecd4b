"""`python -m tabom` is `tabom`."""

import sys

from tabom.cli.main import main

if __name__ == "__main__":
    sys.exit(main())
