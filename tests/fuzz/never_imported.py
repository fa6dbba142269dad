"""A module that configurations of `make fuzz` name: whoever imports it ends at once, as a stranger's code would run."""

import os

os.abort()
