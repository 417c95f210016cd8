"""One turn of a conversation: it begins, asks, runs tools, and ends."""
