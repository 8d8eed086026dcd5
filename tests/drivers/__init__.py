"""Tests of single drivers, beyond what the conformance suite claims of all."""
