"""Tests of codecs that send every element."""
