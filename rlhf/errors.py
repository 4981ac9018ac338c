"""The error tree: what a user can mend, told in one line.

RlhfError
├── ConfigError      a field, flag or config file (also a ValueError)
├── DataError        a row or file of training data (also a ValueError)
├── StoreError       the ranking store
├── CheckpointError  a run folder, adapter or checkpoint
└── TrainingError    a run that must not go on (diverged, wrong base, nothing trains)

A message holds what is wrong with the value seen, where (``file:line`` or the config field as
typed) and what to do. The command line prints it after ``error:`` and exits with status 2;
anything else that escapes is our own fault and shows its traceback.
"""


class RlhfError(Exception):
    """Base of every error that a user can mend."""


class ConfigError(RlhfError, ValueError):
    """A config field, flag or config file that can't be used."""


class DataError(RlhfError, ValueError):
    """A row or file of data that can't be used."""


class StoreError(RlhfError, RuntimeError):
    """A ranking store that refuses what was asked of it."""


class CheckpointError(RlhfError, RuntimeError):
    """A run folder, adapter or checkpoint that is missing, broken or of another base."""


class TrainingError(RlhfError, RuntimeError):
    """A run that would go on for nothing or has gone wrong."""
