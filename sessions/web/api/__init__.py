"""The back end's own JSON API."""
