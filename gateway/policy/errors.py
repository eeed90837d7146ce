"""What is wrong with a policy."""

from __future__ import annotations


class PolicyError(Exception):
    """The policy cannot be used; the message names file, line and field."""
