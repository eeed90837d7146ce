"""What is wrong with how identity is set up."""

from __future__ import annotations


class AccessError(Exception):
    """Keys, issuers, API keys or revocations cannot be used; the message names file, line and field, never a key."""
