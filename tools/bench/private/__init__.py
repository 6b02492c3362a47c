"""What private learning costs, and what it keeps: one module for each kind of it."""
