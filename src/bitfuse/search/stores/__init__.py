"""Where a collection keeps its items and codes."""
