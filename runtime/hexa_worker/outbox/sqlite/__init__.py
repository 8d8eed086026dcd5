"""The outbox in SQLite: one writer at a time, so ids follow commits and a cursor is one number."""
