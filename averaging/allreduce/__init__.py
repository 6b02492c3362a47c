"""Butterfly all-reduce with an agreed outcome: each aggregator averages one span for everybody."""
