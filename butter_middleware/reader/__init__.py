"""Turns a capture into records, or a message that explains why not."""
