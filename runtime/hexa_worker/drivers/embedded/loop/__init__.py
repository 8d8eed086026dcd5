"""The broker thread: the one place where this process touches the file."""
