"""Past checkouts are read from a file, sent, and noted by key in a journal."""
