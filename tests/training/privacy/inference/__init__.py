"""Tests of private inference."""
