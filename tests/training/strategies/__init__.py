"""Tests of local strategies."""
