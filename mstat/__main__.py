"""Run launch/__main__.py as `python -m mstat`."""

import sys

from launch.__main__ import main

if __name__ == "__main__":
    sys.exit(main())
