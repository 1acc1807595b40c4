"""Butter's API on this machine, with a page that shows each record when it arrives."""

from butter_middleware.sandbox.app import Sandbox

__all__ = ["Sandbox"]
