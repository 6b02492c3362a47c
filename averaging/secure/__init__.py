"""Secure aggregation: peers learn the sum of their vectors, and nobody learns a single one."""
