"""What is shipped to run the service: read once, rendered by the tools that users have."""

from __future__ import annotations

import shutil
import subprocess
import sysconfig
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[2]
K8S = ROOT / "deploy" / "k8s"
Document = dict[str, Any]


def tool(name: str) -> str:
    """The path of a tool that a wheel has brought into this environment."""
    found = shutil.which(name, path=sysconfig.get_path("scripts"))
    if found is None:
        pytest.skip(f"{name} has no wheel for this Python")
    return found


def render(folder: Path) -> list[Document]:
    """What `kubectl kustomize` makes of a folder."""
    done = subprocess.run([tool("kubectl"), "kustomize", str(folder)], check=True, capture_output=True, text=True)
    assert not done.stderr, done.stderr
    return list(yaml.safe_load_all(done.stdout))


def with_components(folder: Path, overlay: str, *components: str) -> list[Document]:
    """An overlay with components, as a user's own kustomization would put them together."""
    up = Path(*[".."] * len(folder.resolve().relative_to("/").parts))
    at = {name: str(up / (K8S / name).relative_to("/")) for name in (f"overlays/{overlay}", *components)}
    wanted = {"resources": [at[f"overlays/{overlay}"]], "components": [at[name] for name in components]}
    (folder / "kustomization.yaml").write_text(yaml.safe_dump(wanted), encoding="utf-8")
    return render(folder)


@pytest.fixture(scope="session", params=["cpu", "gpu"])
def overlay(request: pytest.FixtureRequest) -> list[Document]:
    """Each overlay as it is shipped."""
    return render(K8S / "overlays" / request.param)


@pytest.fixture(scope="session")
def cpu() -> list[Document]:
    """The overlay for CPUs."""
    return render(K8S / "overlays" / "cpu")


def of_kind(documents: list[Document], *kinds: str) -> list[Document]:
    """Those of these kinds."""
    return [each for each in documents if each["kind"] in kinds]


def named(documents: list[Document], kind: str, name: str) -> Document:
    """The only one."""
    (found,) = [each for each in of_kind(documents, kind) if each["metadata"]["name"] == name]
    return found


def pods(documents: list[Document]) -> dict[str, Document]:
    """Pod templates by the name of their workload."""
    workloads = of_kind(documents, "Deployment", "StatefulSet", "Job")
    return {each["metadata"]["name"]: each["spec"]["template"] for each in workloads}
