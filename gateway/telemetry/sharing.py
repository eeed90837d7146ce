"""One set of series for all workers of a port: each writes into files of a folder, and whoever is scraped adds them up.

The files are named by a worker's place and not by its process: a worker that takes the place of one that ended goes on
where that one stopped, so no count is lost and none goes back, and there are never more files than places.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from prometheus_client import values
from prometheus_client.core import Exemplar
from prometheus_client.multiprocess import mark_process_dead

VARIABLE = "PROMETHEUS_MULTIPROC_DIR"
"""prometheus_client's own: it wants it in the environment before it is imported, so the parent sets it."""
TENANTS = "tenants"


def share(place: int) -> None:
    """This process is the worker at ``place``. Before any series is made."""
    values.ValueClass = _remembering_exemplars(values.MultiProcessValue(lambda: place))  # type: ignore[no-untyped-call]


def keep_to_itself() -> None:
    """This process is the only one, whatever the environment says. Before any series is made."""
    values.ValueClass = values.MutexValue


def folder() -> Path | None:
    """Where the workers share; None in a process that does not."""
    return Path(os.environ[VARIABLE]) if values.ValueClass._multiprocess else None


def sweep(where: Path) -> None:
    """Forget what the workers of an earlier parent counted."""
    where.mkdir(mode=0o700, parents=True, exist_ok=True)
    for file in (*where.glob("*.db"), where / TENANTS):
        file.unlink(missing_ok=True)


def ended(place: int, where: Path) -> None:
    """Forget the gauges of a worker that is no more; its counts stay."""
    mark_process_dead(place, str(where))  # type: ignore[no-untyped-call]


def _remembering_exemplars(base: Any) -> Any:
    """prometheus_client keeps no exemplars in its files. So each worker remembers its own, and shows them when it is
    scraped: they are observations of the bucket that they stand at, if not always the last ones."""

    class Value(base):  # type: ignore[misc]
        exemplar: Exemplar | None = None

        def set_exemplar(self, exemplar: Exemplar) -> None:
            self.exemplar = exemplar

        def get_exemplar(self) -> Exemplar | None:
            return self.exemplar

    return Value
