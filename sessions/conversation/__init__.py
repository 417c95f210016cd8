"""What this process knows of a stored conversation: opened, read, changed, leased."""
