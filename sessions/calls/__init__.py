"""One paid request, from its plan to its row of the ledger; who goes first; what is due, and when."""
