"""``python -m hexa_worker`` is the command line."""

import sys

from hexa_worker.cli import main

if __name__ == "__main__":
    sys.exit(main())
