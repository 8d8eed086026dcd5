"""Adapters to brokers. A driver's client library is imported only when that driver is configured."""
