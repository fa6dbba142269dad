"""Run launch/model.py as `python -m mstat.model`."""

import sys

from launch.model import main

if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
