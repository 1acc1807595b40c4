"""For the tests of those who use this package: a Butter that answers in the process."""

from butter_middleware.testing.fake_butter import FakeButter

__all__ = ["FakeButter"]
