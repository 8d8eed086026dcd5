"""Deduplication: stores of claims. What claims mean is in `hexa_worker.core.claims`; who asks, in `actors.claimer`."""
