"""Run the ``rlhf`` command as ``python -m rlhf``; ``accelerate launch -m rlhf`` needs it."""

import sys

from rlhf.cli import main

if __name__ == "__main__":
    sys.exit(main())
