"""Tests of what peers keep from each other."""
