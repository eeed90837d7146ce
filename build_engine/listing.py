"""What versions there are, on disk and in Triton, and which of them serves."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from build_engine import manifest as manifests
from build_engine.errors import BuildError
from build_engine.publish import versions
from build_engine.rollout import CANDIDATE_SUFFIX
from build_engine.serving import Served, served
from build_engine.triton_control import Triton


def listing(model: Path, tritons: Sequence[Triton]) -> dict[str, Any]:
    """One model: its versions oldest first, what a Triton that starts now would serve, and what is not as it should be.
    Raises :class:`build_engine.errors.TritonError`."""
    now = served(model)
    states = {triton.address: triton.states(model.name) for triton in tritons}
    serving = {triton.address: triton.serving(model.name) for triton in tritons}
    found = [_version(path, now, states, serving) for path in versions(model)]
    on_disk = {entry["version"] for entry in found}
    notes = [
        f"{address} serves version {number}, config.pbtxt names {now.version}: a rollout was cut short; "
        f"`promote {number}` finishes it, `rollback` undoes it"
        for address, number in serving.items()
        if now.pinned and number is not None and number != now.version
    ]
    notes += [
        f"{address} holds version {number}, which is not on disk any more"
        for address, known in states.items()
        for number, state in known.items()
        if number not in on_disk and not state.startswith("UNAVAILABLE")
    ]
    notes += [
        f"{triton.address} still holds {model.name}{CANDIDATE_SUFFIX} of a killed rollout; the next one lets it go"
        for triton in tritons
        if triton.is_ready(f"{model.name}{CANDIDATE_SUFFIX}")
    ]
    return {
        "model": model.name,
        "pinned": now.pinned,
        "served_on_start": now.version,
        "replaces": now.replaces,
        "versions": found,
        "notes": notes,
    }


def _version(
    path: Path, now: Served, states: dict[str, dict[int, str]], serving: dict[str, int | None]
) -> dict[str, Any]:
    number = int(path.name)
    entry: dict[str, Any] = {
        "version": number,
        "serving": [address for address, version in serving.items() if version == number],
        "served_on_start": now.version == number,
        "triton": {address: known.get(number, "not loaded") for address, known in states.items()},
    }
    try:
        manifest = manifests.read_manifest(path)
    except BuildError as error:
        return entry | {"problem": str(error)}
    return entry | {
        "target": manifest["target"],
        "precision": manifest["precision"],
        "manifest_sha256": manifests.sha256_of(path / manifests.MANIFEST),
        "source": manifest["source"]["name"],
        "adapter": manifest.get("adapter"),
        "accuracy": manifest.get("accuracy"),
        "bytes": manifest["total_bytes"],
        "created": manifest["created"],
    }


def as_table(report: dict[str, Any]) -> str:
    """A listing as a person reads it."""
    lines = [f"{report['model']} ({'pinned' if report['pinned'] else 'follows the latest build'})"]
    for entry in report["versions"]:
        mark = "*" if entry["serving"] else "+" if entry["served_on_start"] else " "
        states = ", ".join(sorted(set(entry["triton"].values()))) or "Triton not asked"
        if "problem" in entry:
            lines.append(f"{mark} {entry['version']:>4}  {entry['problem']}")
            continue
        lines.append(
            f"{mark} {entry['version']:>4}  {entry['target']} {entry['precision']:<16} {entry['bytes'] / 1e6:8.0f} MB  "
            f"{entry['manifest_sha256'][:12]}  {_accuracy(entry['accuracy']):<14} {entry['created']}  {states}"
        )
    lines.append("* serves   + is what a Triton that starts now serves")
    return "\n".join(lines + [f"note: {note}" for note in report["notes"]])


def _accuracy(accuracy: dict[str, Any] | None) -> str:
    if not accuracy or not isinstance(accuracy.get("agreement"), dict):
        return "not judged"
    return f"top-1 {accuracy['agreement']['top1']:.3f}"
