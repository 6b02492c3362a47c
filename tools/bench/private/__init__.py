"""Benchmarks of learning privately: what it hides, from whom, and what it costs."""
