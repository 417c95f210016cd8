"""What following a turn costs: from another process, from nowhere, and by many in one process."""
