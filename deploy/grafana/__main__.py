"""``python -m deploy.grafana`` writes deploy/grafana/dashboards/*.json, which Grafana is provisioned with."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from grafana_foundation_sdk.builders.dashboard import Dashboard
from grafana_foundation_sdk.cog.encoder import JSONEncoder

from deploy.grafana.model import model
from deploy.grafana.policy import policy
from deploy.grafana.runbooks import runbooks
from deploy.grafana.service import service
from deploy.grafana.tenants import tenants

FOLDER = Path(__file__).resolve().parent / "dashboards"
BOARDS = {"service": service, "model": model, "policy": policy, "tenants": tenants, "runbooks": runbooks}


def generated() -> dict[str, str]:
    """File name to content."""
    return {f"{name}.json": _encoded(make()) for name, make in BOARDS.items()}


def _encoded(board: Dashboard) -> str:
    document = json.loads(JSONEncoder().encode(board.build()), object_hook=_in_sight)
    for place, panel in enumerate(document["panels"], start=1):
        panel["id"] = place  # links name panels by it
    return json.dumps(document, indent=1, sort_keys=True, ensure_ascii=False) + "\n"


def _in_sight(fields: dict[str, Any]) -> dict[str, Any]:
    """The SDK knows one place for links and annotations, a closed menu; without one they stand above the panels."""
    if fields.get("placement") == "inControlsMenu":
        del fields["placement"]
    return fields


def main() -> int:
    """Entry point."""
    FOLDER.mkdir(exist_ok=True)
    for name, content in generated().items():
        (FOLDER / name).write_text(content, encoding="utf-8")
        sys.stdout.write(f"{FOLDER / name}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
