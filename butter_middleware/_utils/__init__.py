"""What any module may use: ASGI types, lazy imports, the log thread, futures."""
