"""The model's endpoint: how it is asked, what its answers and failures mean, and what was measured of it."""
