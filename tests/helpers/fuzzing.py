"""How often the property tests try: a little with each run of the tests, at length with `make fuzz`."""

from hypothesis import settings

ORDINARY = 100
"""What hypothesis tries of itself."""


def tries(count: int) -> int:
    """Return how many examples a test tries: `count`, and under a deeper profile as many times more as it says."""
    return max(1, count * settings.get_profile(settings.get_current_profile_name()).max_examples // ORDINARY)
