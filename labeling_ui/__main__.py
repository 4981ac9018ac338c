"""Run the ranking page: ``python -m labeling_ui --store runs/store.sqlite``."""

import sys

from labeling_ui.cli import main

if __name__ == "__main__":
    sys.exit(main())
