"""Benchmarks of what privacy costs: accuracy, bytes and time, beside training without it."""
