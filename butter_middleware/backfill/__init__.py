"""The checkouts of the past, out of a file: read, sent, and noted line by line."""
