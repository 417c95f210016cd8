"""What the chat back end costs beside the bare SDK behind the same kind of stream."""
