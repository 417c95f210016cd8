"""What a turn, an append, a load, a file and an open session cost, with us and with others: `make bench-speed`."""
