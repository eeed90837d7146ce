"""Prometheus text as numbers."""

from __future__ import annotations

from pathlib import Path

import httpx
from prometheus_client.parser import text_string_to_metric_families

Key = tuple[str, frozenset[tuple[str, str]]]


def samples(text: str) -> dict[Key, float]:
    """Every sample by name and labels."""
    families = text_string_to_metric_families(text)
    return {(each.name, frozenset(each.labels.items())): each.value for family in families for each in family.samples}


class Scrape:
    """One answer of ``/metrics``."""

    def __init__(self, text: str) -> None:
        self.all = samples(text)

    def __call__(self, name: str, **labels: str) -> float | None:
        """The value of exactly this series; None if it is not there."""
        return self.all.get((f"tidegate_{name}", frozenset(labels.items())))

    def named(self, name: str) -> dict[frozenset[tuple[str, str]], float]:
        """All of one name, by labels."""
        return {labels: value for (each, labels), value in self.all.items() if each == f"tidegate_{name}"}


async def scrape(url: str) -> Scrape:
    """On a connection of its own, so that any worker may answer."""
    async with httpx.AsyncClient(base_url=url, timeout=20) as client:
        return Scrape((await client.get("/metrics")).text)


def children(pid: int) -> list[int]:
    """Ids of a process's children."""
    return [int(each) for each in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
