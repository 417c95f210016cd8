"""What the simulated model says: its scripts, the reply as the API finishes it, and that reply as events."""
