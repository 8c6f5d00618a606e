"""python -m vim_train: a report of this machine for a bug report."""

import sys

from vim_train.cli.environment import main

if __name__ == "__main__":
    sys.exit(main())
