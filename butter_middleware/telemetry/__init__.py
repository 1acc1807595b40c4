"""Counters, the event dispatcher, coverage and OpenTelemetry."""
