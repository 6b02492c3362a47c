"""A long run of the connection layer: everything at once, and nothing may grow."""
