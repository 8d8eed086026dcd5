"""The public conformance suite against this project's own drivers."""
