"""`python -m mstat.model`: the command of launch/model.py, under the name of what it describes."""

import sys

from launch.model import main

if __name__ == "__main__":
    sys.exit(main())
