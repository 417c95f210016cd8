"""`warmline load`: many workers and conversations against the simulated Claude."""
