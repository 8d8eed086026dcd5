"""Tests of the pure parts, and of parts that need no broker."""
