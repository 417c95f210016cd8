"""One conversation, many turns: in parallel, and in Message Batches."""
