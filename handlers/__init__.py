"""A small order flow: what `worker.toml` runs. These modules import only the public API."""
