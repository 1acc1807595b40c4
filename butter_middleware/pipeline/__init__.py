"""The threads of a process, and what the middleware hands them."""
