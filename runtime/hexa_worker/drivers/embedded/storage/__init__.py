"""The file: its tables, its records, its place on the disk."""
