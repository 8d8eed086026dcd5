"""The lineage store: what became of every delivery, kept for a while, so that a tree can be told by any id in it.

A component of its own, in a file of its own: it may be slow, full, locked or broken without the worker noticing.
"""
