"""What goes on without a caller: idle conversations kept warm, turns of dead workers finished."""
