"""Scripts for a clone, one per stage; each also gives the stage's public classes."""
