"""worker.toml: its typed model and its loader."""
