"""Exit codes of the command line; 0: fine."""

EXIT_FAILED = 1
EXIT_USAGE = 2
"""Bad configuration or usage."""
EXIT_INTERRUPTED = 130
"""Interrupted from the keyboard."""
