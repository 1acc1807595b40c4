"""Reads past checkouts from a file, sends them, and notes them by key in a journal."""
