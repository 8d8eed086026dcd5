"""The outbox in PostgreSQL 13 and newer.

Rows are only ever appended. The relay remembers a snapshot in which it has seen everything: what is visible now and
was not then is what it has to send, so a transaction that commits minutes late is found like any other, and nothing
needs to be marked row by row. A partition whose rows are sent and old is truncated as a whole.
"""
