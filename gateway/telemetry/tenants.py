"""Which tenants are counted by name: the first so many that were seen, so that their number has a bound. The rest
together are ``other``."""

from __future__ import annotations

import fcntl
import json
import os
from pathlib import Path

OTHER = "other"
NOBODY = "none"
"""A request without a tenant."""


class Tenants:
    """At most ``most`` names. With a ``file`` the workers of a host agree on them, since a tenant that one counts by
    name and another as ``other`` would be counted wrongly by both; it is only asked about a tenant that is new here."""

    def __init__(self, most: int = 100, file: Path | None = None) -> None:
        self.most, self._file = most, file
        self._names: set[str] = set()

    def label(self, tenant: str) -> str:
        """What ``tenant`` is counted as."""
        tenant = tenant or NOBODY
        if tenant in self._names:
            return tenant
        if len(self._names) >= self.most:
            return OTHER
        if self._file is None:
            self._names.add(tenant)
        else:
            self._agree(self._file, tenant)
        return tenant if tenant in self._names else OTHER

    def _agree(self, file: Path, tenant: str) -> None:
        """Take over the names of all workers, and add this one if there is room. A line is a name as JSON."""
        descriptor = os.open(file, os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            content = os.pread(descriptor, os.fstat(descriptor).st_size, 0).decode()
            self._names = {json.loads(line) for line in content.splitlines()}
            if tenant not in self._names and len(self._names) < self.most:
                os.write(descriptor, json.dumps(tenant).encode() + b"\n")
                self._names.add(tenant)
        finally:
            os.close(descriptor)
