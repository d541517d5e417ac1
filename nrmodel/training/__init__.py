"""A run: its configuration, loop, loss, validation and folder."""
