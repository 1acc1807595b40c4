"""The outbox in an SQLite file."""
