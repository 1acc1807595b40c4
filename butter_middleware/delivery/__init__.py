"""Sends records to Butter: the send loop, the circuit breaker, the clients."""
