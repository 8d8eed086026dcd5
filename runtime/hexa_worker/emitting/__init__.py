"""Emitting from outside of a worker: web services, scripts, threads."""
