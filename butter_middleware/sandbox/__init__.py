"""Butter's contract on this machine, with a page that shows each record the moment it arrives."""

from butter_middleware.sandbox.app import Sandbox

__all__ = ["Sandbox"]
