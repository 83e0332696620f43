"""Low-rank updates: what their methods share, their starts, their sizes."""
