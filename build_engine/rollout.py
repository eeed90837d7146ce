"""Publish, promote, roll back, list: versions of a model in a Triton that is serving.

    files     the version is what its manifest says
    beside    it is loaded under a name of its own, beside what serves
    smoke     it answers its goldens; then that copy is let go
    move      Triton loads the version itself; when it is ready, new requests go there and the old one takes none
    commit    config.pbtxt names it, for every Triton that starts from now on
    drain     the old version ends what it has begun, and Triton lets it go
    follow    a Triton that started before the commit, and was not there to be moved, is brought along

There is no state but Triton's and ``config.pbtxt``'s. Until *move* nothing has changed; behind it every step can be
taken again. Killed anywhere, something that passed its proof serves, and the same command run again finishes (or the
other one undoes). A failure in *move* or *commit* puts back what served."""

from __future__ import annotations

import contextlib
import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from build_engine import manifest as manifests
from build_engine.errors import BuildError, CorruptSource, PublishError, RecipeError, Refused, SourceError, TritonError
from build_engine.goldens import Golden, goldens_of
from build_engine.publish import locked, prune, publish, replace_config, staging, versions
from build_engine.serving import Served, as_text, config_for, own_config, served
from build_engine.smoke import smoke
from build_engine.source import TokenizerFiles
from build_engine.triton_control import Triton

CANDIDATE_SUFFIX = ".candidate"
POLL_SECONDS = 0.2
FOLLOW_SECONDS = 5.0
Say = Callable[[str], None]


@dataclass(frozen=True)
class Rollout:
    """What a rollout works on. ``seen_as`` is the repository's path as Triton sees it; ``goldens`` replace the
    version's own; ``keep_old`` is how many versions beside the served one survive (None: all). ``found`` are the
    Tritons that are there now, for ``follow_seconds`` after the commit and at least once."""

    repository: Path
    name: str
    tritons: tuple[Triton, ...]
    seen_as: Path
    goldens: Path | None = None
    answer_seconds: float = 60.0
    drain_seconds: float = 300.0
    keep_old: int | None = None
    found: Callable[[], tuple[Triton, ...]] = tuple
    follow_seconds: float = 0.0
    say: Say = field(default=lambda line: None)

    @property
    def model(self) -> Path:
        """The model's folder."""
        return self.repository / self.name

    @property
    def candidate(self) -> str:
        """What a version under trial is called in Triton."""
        return f"{self.name}{CANDIDATE_SUFFIX}"


@dataclass(frozen=True)
class Target:
    """The version that is to serve."""

    number: int
    folder: Path
    precision: str
    manifest_sha256: str
    goldens: list[Golden]
    goldens_from: str


def publish_from(source: Path, repository: Path, name: str | None) -> dict[str, Any]:
    """Copy a version (or the newest of a model folder) into ``repository`` without serving it; a model's first
    version is what a Triton that starts from now on serves. What is there already is found by its manifest. Raises
    :class:`BuildError`; then nothing was published."""
    version = source if (source / manifests.MANIFEST).exists() else next(reversed(versions(source)), None)
    if version is None:
        raise SourceError(f"--from {source} is no version and no model of this builder")
    manifest = manifests.read_manifest(version)
    own_config(version)
    digest = manifests.sha256_of(version / manifests.MANIFEST)
    model = repository / (name or str(manifest["name"]))
    path = _with_manifest(model, digest)
    changed = path is None
    if path is None:
        with staging(repository) as folder:
            copy = folder / "version"
            shutil.copytree(version, copy, ignore=shutil.ignore_patterns("__pycache__"))
            problems = manifests.differences(copy, manifest)
            if problems or manifests.sha256_of(copy / manifests.MANIFEST) != digest:
                raise CorruptSource(f"{version} is not what its manifest says: {'; '.join(problems[:3])}")
            path = publish(copy, model, pinned=True)
    return {
        "model": model.name,
        "version": int(path.name),
        "changed": changed,
        "manifest_sha256": digest,
        "served_on_start": served(model).version,
    }


def promote(rollout: Rollout, number: int | None) -> dict[str, Any]:
    """Serve version ``number``, the newest if None. Raises :class:`Refused` when it fails its proof and
    :class:`BuildError` for everything else; what served before serves on then."""
    with _alone(rollout):
        newest = next(reversed(versions(rollout.model)), None)
        if newest is None:
            raise PublishError(f"{rollout.model} holds no version; publish one first")
        return _serve(rollout, _target(rollout, number or int(newest.name)), trusted=False)


def roll_back(rollout: Rollout, number: int | None, *, trusted: bool) -> dict[str, Any]:
    """Serve version ``number`` again; if None, the one that served before. ``trusted`` leaves the proof beside out: the
    version is loaded once and takes over. Raises as :func:`promote` does."""
    with _alone(rollout):
        now = served(rollout.model)
        serving = rollout.tritons[0].serving(rollout.name)
        # A rollout that was killed before its commit is undone by going to what config.pbtxt still names.
        before = now.version if now.pinned and serving != now.version else now.replaces
        if number is None and before is None:
            raise PublishError(f"{rollout.model}: nothing served before version {now.version}; name a version")
        return _serve(rollout, _target(rollout, number or before or 0), trusted=trusted)


@contextlib.contextmanager
def _alone(rollout: Rollout) -> Any:
    """One rollout of a model at a time."""
    if not rollout.model.is_dir():
        raise PublishError(f"{rollout.repository} has no model {rollout.name}")
    with locked(rollout.model, wait=False):
        yield


def _target(rollout: Rollout, number: int) -> Target:
    """The version, checked against its manifest. Raises :class:`Refused` when it is not what that says."""
    folder = rollout.model / str(number)
    if not folder.is_dir():
        found = ", ".join(version.name for version in versions(rollout.model)) or "none"
        raise PublishError(f"{rollout.model} has no version {number}; it has {found}")
    rollout.say(f"files: version {number} against its manifest")
    manifest = manifests.read_manifest(folder)
    if manifest.get("task", "text-generation") != "text-generation":
        raise RecipeError(f"{rollout.name} is a {manifest['task']} model; rollouts know how to prove text generation")
    problems = manifests.differences(folder, manifest)
    if problems:
        raise Refused(f"version {number} is not what its manifest says: {'; '.join(problems[:5])}")
    source, goldens = goldens_of(folder, rollout.goldens, _tokenizer(folder))
    digest = manifests.sha256_of(folder / manifests.MANIFEST)
    return Target(number, folder, str(manifest["precision"]), digest, goldens, source)


def _serve(rollout: Rollout, target: Target, *, trusted: bool) -> dict[str, Any]:
    now = served(rollout.model)
    before = {triton: triton.serving(rollout.name) for triton in rollout.tritons}
    pending = [triton for triton in rollout.tritons if not _serves(rollout, triton, target)]
    old = {triton: _back(rollout, now, number) for triton, number in before.items() if triton in pending}
    proofs = {triton.address: _prove(rollout, triton, target) for triton in pending if not trusted}
    served_before = next((number for number in before.values() if number not in (None, target.number)), now.version)
    replaces = served_before if served_before != target.number else now.replaces
    config = config_for(target.folder, rollout.name, pinned=True, replaces=replaces)
    changed = bool(pending) or not now.pinned or now.version != target.number
    moved: list[Triton] = []
    try:
        for triton in pending:
            rollout.say(f"move: {triton.address} loads version {target.number}")
            moved.append(triton)
            triton.load(rollout.name, config)
            _answers(rollout, triton, target)
        if changed:
            rollout.say(f"commit: config.pbtxt names version {target.number}")
            replace_config(rollout.model, as_text(config))
    except (BuildError, OSError, KeyboardInterrupt):
        for triton in moved:
            _put_back(rollout, triton, before[triton], old[triton])
        raise
    deadline = time.monotonic() + rollout.follow_seconds
    drained = {triton.address: _drain(rollout, triton, before[triton]) for triton in pending}
    drained |= _follow(rollout, target, config, deadline)
    return {
        "model": rollout.name,
        "version": target.number,
        "replaces": replaces,
        "changed": changed,
        "manifest_sha256": target.manifest_sha256,
        "goldens_from": target.goldens_from,
        "smoke": proofs,
        "drained": drained,
        "pruned": _prune(rollout, target.number, replaces),
    }


def _serves(rollout: Rollout, triton: Triton, target: Target) -> bool:
    """Whether this Triton serves exactly this version already. A copy that a killed rollout left is let go."""
    if triton.is_ready(rollout.candidate):
        rollout.say(f"{triton.address}: a killed rollout left {rollout.candidate}; letting it go")
        triton.unload(rollout.candidate)
    serving = triton.serving(rollout.name)
    return serving == target.number and triton.manifest_of(rollout.name) == target.manifest_sha256


def _back(rollout: Rollout, now: Served, number: int | None) -> Any:
    """The configuration that brings version ``number`` back; None when none served. Raises :class:`PublishError` when
    it cannot be made: then it is better not to begin."""
    if number is None:
        return None
    return config_for(rollout.model / str(number), rollout.name, pinned=True, replaces=now.replaces)


def _prove(rollout: Rollout, triton: Triton, target: Target) -> dict[str, Any]:
    """Load the version beside what serves and ask it its goldens. Raises :class:`Refused`."""
    config = config_for(target.folder, rollout.candidate, pinned=False)
    rollout.say(f"beside: {triton.address} loads version {target.number} as {rollout.candidate}")
    began = time.monotonic()
    try:
        triton.load_candidate(rollout.candidate, config, rollout.seen_as / rollout.name / str(target.number))
        seconds = time.monotonic() - began
        rollout.say(f"smoke: {len(target.goldens)} goldens ({target.goldens_from})")
        figures = smoke(
            triton,
            rollout.candidate,
            target.goldens,
            precision=target.precision,
            answer_seconds=rollout.answer_seconds,
        )
    finally:
        with contextlib.suppress(TritonError):
            triton.unload(rollout.candidate)
    return {"load_seconds": round(seconds, 3), **figures}


def _answers(rollout: Rollout, triton: Triton, target: Target) -> None:
    """Whoever asks without a version is now answered by the new one. Raises :class:`Refused`."""
    golden = target.goldens[0]
    values: dict[str, str | int | bool] = {"text_input": golden.prompt, "max_tokens": 1}
    values["add_special_tokens"] = golden.add_special_tokens
    reply = triton.ask(rollout.name, values, rollout.answer_seconds)
    if reply.version != str(target.number):
        raise Refused(f"{triton.address} answers as version {reply.version}, not {target.number}")


def _put_back(rollout: Rollout, triton: Triton, number: int | None, config: Any) -> None:
    """Undo a move. What cannot be undone is said, and the next Triton is seen to."""
    try:
        if config is None:
            triton.unload(rollout.name)
        elif triton.serving(rollout.name) != number:
            rollout.say(f"back: {triton.address} loads version {number} again")
            triton.load(rollout.name, config)
    except BuildError as error:
        rollout.say(f"back: NOT undone at {triton.address}: {error}")


def _drain(rollout: Rollout, triton: Triton, old: int | None) -> bool:
    """Wait until Triton has let ``old`` go, at most ``drain_seconds``. False when it still answers somebody: Triton
    lets it go when the last of them is done."""
    deadline = time.monotonic() + rollout.drain_seconds
    told = 0.0
    while old is not None and triton.states(rollout.name).get(old, "").startswith(("READY", "UNLOADING")):
        if time.monotonic() >= deadline:
            rollout.say(f"drain: version {old} at {triton.address} still has running answers; it goes with the last")
            return False
        if time.monotonic() - told > 5:
            told = time.monotonic()
            rollout.say(f"drain: version {old} at {triton.address} ends what it has begun")
        time.sleep(POLL_SECONDS)
    return True


def _follow(rollout: Rollout, target: Target, config: Any, deadline: float) -> dict[str, bool]:
    """Bring along, until ``deadline`` and until nobody is behind, who read ``config.pbtxt`` before the commit and was
    ready only after it; by address, as :func:`_drain`. Raises :class:`Refused` for one that stays behind."""
    drained = {}
    while True:
        over = time.monotonic() >= deadline
        behind = _behind(rollout, target)
        for triton, old in behind.items():
            rollout.say(f"follow: {triton.address} loads version {target.number}")
            try:
                triton.load(rollout.name, config)
                _answers(rollout, triton, target)
                drained[triton.address] = _drain(rollout, triton, old)
            except TritonError as error:
                if over:
                    raise
                rollout.say(f"follow: {error}")
        if over and not behind:
            return drained
        if not behind:
            time.sleep(min(FOLLOW_SECONDS, max(deadline - time.monotonic(), 0.0)))


def _behind(rollout: Rollout, target: Target) -> dict[Triton, int | None]:
    """Who serves another version, and which. Who cannot be reached is leaving or starting, and who starts now serves
    what is committed."""
    behind: dict[Triton, int | None] = {}
    try:
        found = rollout.found()
    except TritonError as error:
        rollout.say(f"follow: {error}")
        return behind
    for triton in found:
        with contextlib.suppress(TritonError):
            if not _serves(rollout, triton, target):
                behind[triton] = triton.serving(rollout.name)
    return behind


def _prune(rollout: Rollout, number: int, replaces: int | None) -> list[int]:
    """Remove old versions beyond ``keep_old``; never the served one, a newer one, or one that a Triton still holds."""
    if rollout.keep_old is None:
        return []
    known = [int(version.name) for version in versions(rollout.model)]
    old = sorted((each for each in known if each < number and each != replaces), reverse=True)
    first = [replaces] if replaces in known and replaces is not None else []
    held = {
        version
        for triton in rollout.found() or rollout.tritons
        for version, state in triton.states(rollout.name).items()
        if not state.startswith("UNAVAILABLE")
    }
    newer = {each for each in known if each >= number}
    return prune(rollout.model, newer | held | set((first + old)[: rollout.keep_old]))


def _with_manifest(model: Path, digest: str) -> Path | None:
    """The version of ``model`` with this manifest whose files are what it says."""
    for version in versions(model):
        file = version / manifests.MANIFEST
        if file.exists() and manifests.sha256_of(file) == digest:
            return version if not manifests.differences(version, manifests.read_manifest(version)) else None
    return None


def _tokenizer(version: Path) -> TokenizerFiles:
    """What rendering a conversation needs, out of the version's own configuration."""
    says = {key: value.string_value for key, value in own_config(version).parameters.items()}
    return TokenizerFiles(
        json="",
        bos_token_id=None,
        bos_token=says.get("bos_token", ""),
        eos_token_ids=(),
        eos_token=says.get("eos_token", ""),
        special_tokens=(),
        chat_template=says.get("chat_template", ""),
    )
