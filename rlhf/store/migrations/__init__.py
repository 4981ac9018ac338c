"""Schema history of the ranking store; ``rlhf.store.engine`` runs it on opening."""
