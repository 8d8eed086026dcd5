"""Deduplication: stores of claims. What claims mean is in `core.claims`; who asks, in `actors.dedup_stage`."""
