"""Tests of the benchmarks of privacy."""
