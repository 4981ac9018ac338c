"""The ``rlhf rankings`` command: import, export, report, verify and backup of a ranking store."""
