"""What the simulated API refuses, and with which words."""
