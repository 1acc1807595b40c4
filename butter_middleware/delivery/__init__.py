"""Records are sent to Butter: the send loop, the circuit breaker, the clients."""
