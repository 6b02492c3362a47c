"""Tests of homomorphic sums."""
