"""A capture becomes records, or a message that says why not."""
