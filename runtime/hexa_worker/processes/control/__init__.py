"""The control socket: what an operator asks a running worker, and what it answers."""
