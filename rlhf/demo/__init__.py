"""The embedded default: a tiny base, its tasks and its simulated annotators."""
