"""The pages say what the code does: settings, series and error codes, in both directions."""

from __future__ import annotations

import ast
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from gateway import errors
from gateway.reference import settings_table

from .conftest import KEY, serve

ROOT = Path(__file__).resolve().parents[2]


def test_every_setting_is_on_its_page() -> None:
    """The page carries the table that `python -m gateway settings` prints."""
    assert settings_table() in (ROOT / "docs/configuration.md").read_text(encoding="utf-8")


def test_the_api_reference_is_what_the_gateway_says_of_itself() -> None:
    """The page is what `python -m gateway openapi --page` prints, whatever the environment says."""
    command = [sys.executable, "-m", "gateway", "openapi", "--page"]
    environment = {**os.environ, "TIDEGATE_FEEDBACK_SECONDS": "0", "TIDEGATE_JWT_KEY": "weak"}
    done = subprocess.run(command, cwd=ROOT, env=environment, check=True, capture_output=True, text=True)
    assert done.stdout == (ROOT / "docs/api.md").read_text(encoding="utf-8")
    assert "### `POST /generate`" in done.stdout


def documented(section: str) -> dict[str, tuple[str, set[str]]]:
    """Type and labels of each series in a section of the page."""
    page = (ROOT / "docs/metrics.md").read_text(encoding="utf-8")
    text = page.split(f"\n## {section}")[1].split("\n## ")[0]
    rows = re.findall(r"^\| `(\w+)` \| (\w+) \| (.*?) \|", text, flags=re.MULTILINE)
    return {name: (kind, set(re.findall(r"`(\w+)`", labels.split(":")[0]))) for name, kind, labels in rows}


POLICY = """
version: pages
lists: [{name: words, words: [bad word]}]
moderators:
  - {name: own, kind: python, entry_point: "tests.gateway.policy.judges:lenient"}
  - {name: down, kind: python, entry_point: "tests.gateway.policy.judges:broken", on_error: flag}
"""


ISSUERS = f"""
issuers:
  - {{name: own, issuer: tidegate, audience: [tidegate], keys: [{{algorithm: HS256, value: "{KEY}"}}]}}
  - {{name: down, issuer: down, audience: [x], jwks_url: "http://127.0.0.1:1/", algorithms: [RS256]}}
"""


async def test_every_series_of_a_running_gateway_is_on_its_page(tmp_path: Path) -> None:
    """Names, types and labels, from the exposition that Prometheus reads."""
    policy = tmp_path / "pages.yaml"
    policy.write_text(POLICY, encoding="utf-8")
    issuers, revoked = tmp_path / "issuers.yaml", tmp_path / "revoked.jsonl"
    issuers.write_text(ISSUERS, encoding="utf-8")
    revoked.touch()
    prices = tmp_path / "prices.yaml"
    prices.write_text("models: {generate: {input: 1}}", encoding="utf-8")
    settings = {"jwt_key": None, "issuers_file": issuers, "revocation_file": revoked, "price_file": prices}
    async with serve(tmp_path, policy_file=policy, **settings) as served, served.client() as client:
        for path in ("/generate", "/generate_stream"):
            await client.post(path, json={"text_input": "one two"})
        await client.post("/generate", json={"text_input": "bad word"})
        answer = await client.post("/generate", json={"text_input": "one"})
        await client.post("/feedback", json={"request_id": answer.json()["id"], "score": 5})
        text = (await client.get("/metrics")).text
    kinds = dict(re.findall(r"^# TYPE (\w+) (\w+)$", text, flags=re.MULTILINE))
    found: dict[str, tuple[str, set[str]]] = {}
    for name, kind in kinds.items():
        if name.startswith("tidegate_") and not name.endswith("_created"):
            samples = re.findall(rf"^{name}(?:_bucket)?\{{(.*)\}} ", text, flags=re.MULTILINE)
            labels = {label for sample in samples for label in re.findall(r'(\w+)="', sample)} - {"le"}
            found[name] = (kind, labels)
    assert found == documented("The gateway")


def test_every_series_of_the_backend_is_on_its_page() -> None:
    """Names, types and labels. The backend's module is read and not imported: it needs Triton's own."""
    module = ast.parse((ROOT / "build_engine/backend/metrics.py").read_text(encoding="utf-8"))
    said = {
        each.targets[0].id: ast.literal_eval(each.value)
        for each in module.body
        if isinstance(each, ast.Assign) and isinstance(each.targets[0], ast.Name) and each.targets[0].id.startswith("_")
    }
    found: dict[str, tuple[str, set[str]]] = {said["_TOKENS"]: ("counter", {"kind"})}
    found |= {name: ("counter", set()) for name in said["_COUNTERS"]}
    found |= {name: ("gauge", set()) for name in said["_GAUGES"]}
    assert found == documented("The generation backend")


def test_what_is_called_total_is_a_counter() -> None:
    """And nothing else is, as Prometheus' conventions want it; the pages have the types that are exposed."""
    series = documented("The gateway") | documented("The generation backend")
    assert {name for name in series if name.endswith("_total")} == {
        name for name, (kind, _) in series.items() if kind == "counter"
    }


def every_error() -> list[type[errors.GatewayError]]:
    """The whole tree."""
    found, left = [], [errors.GatewayError]
    while left:
        found.append(each := left.pop())
        left += each.__subclasses__()
    return found


def test_every_error_code_is_in_the_readme_and_in_the_drawing() -> None:
    """A client can look up any code it gets, with its status."""
    readme = (ROOT / "README.md").read_text(encoding="utf-8").split("| status | codes |")[1].split("\n\n")[0]
    rows = [line.split("|")[1:3] for line in readme.splitlines() if line.startswith("| ") and "---" not in line]
    statuses = {code: cell for cell, codes in rows for code in re.findall(r"`(\w+)`", codes)}
    codes = {each.code: each.http_status for each in every_error()}
    assert statuses.keys() == codes.keys()
    assert all(str(status) in statuses[code] for code, status in codes.items())
    assert errors.__doc__ is not None
    for each in every_error()[1:]:
        assert re.search(rf"{each.__name__} +{each.http_status} +{each.grpc_status} +{each.code}\n", errors.__doc__)


@pytest.mark.parametrize("page", ["README.md", "ARCHITECTURE.md", "CONTRIBUTING.md", "model_repository/README.md"])
def test_every_path_that_a_page_names_is_there(page: str) -> None:
    """No reader is sent to a file that does not exist."""
    text = (ROOT / page).read_text(encoding="utf-8")
    named = re.findall(r"(?<![\w/.-])((?:docs|deploy|tests|benchmarks|gateway|build_engine)/[\w/.-]*\w)", text)
    missing = [each for each in set(named) if not (ROOT / each).exists()]
    assert missing == []
