"""How many examples the property tests try: few in each run of the tests, many with `make fuzz`."""

from hypothesis import settings

ORDINARY = 100
"""The default of hypothesis."""


def tries(count: int) -> int:
    """Return how many examples a test tries: `count`, or more under a deeper profile, in proportion."""
    return max(1, count * settings.get_profile(settings.get_current_profile_name()).max_examples // ORDINARY)
