"""Measurements: each beside its raw limit in the same run, with the settings users get."""
