"""Versions come and go in a Triton that is serving, through the real command, and nobody notices."""

from __future__ import annotations

import asyncio
import json
import shutil
import sys
import time
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from socket import AF_INET, AF_INET6
from typing import Any

import httpx
import pytest

from benchmarks.load import under_load
from build_engine import manifest as manifests
from build_engine.errors import TritonError
from build_engine.listing import listing
from build_engine.pipeline import build
from build_engine.recipe import Recipe
from build_engine.rollout import Rollout, promote
from build_engine.triton_control import Triton, addresses
from deploy.local import stack as local
from tests.build_engine.checkpoints import Shape, write_directory

from .conftest import ROOT, make_stack

ASKED = [{"text": "the th"}, {"messages": [{"role": "user", "content": "hello"}], "max_tokens": 8}, {"text": "1, 2, 3"}]


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A build host's repository: version 1 and 2 of a tiny model, with goldens."""
    folder = tmp_path_factory.mktemp("built")
    asked = folder / "ask.jsonl"
    asked.write_text("\n".join(map(json.dumps, ASKED)))
    for layers in (1, 2):
        source = write_directory(folder / f"source-{layers}", Shape(layers=layers, context=1024))
        recipe = Recipe(source, "generate", folder / "repository", folder / "work", precision="fp32", goldens=asked)
        build(recipe, quiet=True)
    return folder / "repository" / "generate"


@pytest.fixture(scope="module")
def live(built: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[local.Stack]:
    """Triton and a gateway that serve version 1, and have version 2 on disk."""
    folder = tmp_path_factory.mktemp("live")
    stack = make_stack(folder / "models" / "repository", folder / "run")
    for version in ("1", "2"):
        done = asyncio.run(command("publish", "--from", built / version, "--repository", stack.repository))
        assert (done.status, done.result["version"], done.result["served_on_start"]) == (0, int(version), 1)
    try:
        local.start(stack)
        yield stack
    finally:
        local.stop(stack)


class Done:
    """A command that has ended."""

    def __init__(self, status: int, out: bytes, err: bytes) -> None:
        self.status, self.out, self.err = status, out.decode(), err.decode()

    @property
    def result(self) -> dict[str, Any]:
        """The last line on stdout; empty when there is none."""
        lines = self.out.splitlines()
        found: dict[str, Any] = json.loads(lines[-1]) if lines else {}
        return found


async def command(*arguments: object, kill_at: str = "", kill_after: float = 0.0) -> Done:
    """``python -m build_engine ...``; with ``kill_at`` it is killed as soon as it says that on stderr, or
    ``kill_after`` seconds later."""
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        *("-m", "build_engine", *map(str, arguments)),
        cwd=ROOT,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    assert process.stdout is not None
    assert process.stderr is not None
    said = b""
    async for line in process.stderr:
        said += line
        if kill_at and kill_at.encode() in line:
            await asyncio.sleep(kill_after)
            process.kill()
            break
    out, rest = await process.communicate()
    assert process.returncode is not None
    return Done(process.returncode, out, said + rest)


Roll = Callable[..., Awaitable[Done]]


@pytest.fixture
def roll(live: local.Stack) -> Roll:
    """A command against the live Triton."""

    def run(name: str, *arguments: object, kill_at: str = "", kill_after: float = 0.0) -> Awaitable[Done]:
        where = ("--repository", live.repository, "--name", "generate", "--triton", f"127.0.0.1:{live.ports.grpc}")
        return command(name, *arguments, *where, kill_at=kill_at, kill_after=kill_after)

    return run


def listed(live: local.Stack) -> tuple[list[int], int, dict[int, str], list[str]]:
    """What ``list`` says: serving versions, the one served on start, each version's state in Triton, notes."""
    triton = Triton(f"127.0.0.1:{live.ports.grpc}", load_seconds=10.0)
    try:
        report = listing(live.repository / "generate", [triton])
    finally:
        triton.close()
    states = {entry["version"]: next(iter(entry["triton"].values())) for entry in report["versions"]}
    serving = [entry["version"] for entry in report["versions"] if entry["serving"]]
    return serving, report["served_on_start"], states, report["notes"]


def answers_as(live: local.Stack) -> str:
    """The version that answers at the gateway now."""
    headers = {"Authorization": f"Bearer {live.token()}"}
    body = {"text_input": "the", "max_tokens": 2}
    answer = httpx.post(f"{live.url}/generate", json=body, headers=headers, timeout=30)
    version: str = answer.json()["model_version"]
    return version


async def test_promote_and_roll_back_under_sixteen_streams(live: local.Stack, roll: Roll) -> None:
    """No request fails, each is answered whole by one version or the other, and `list` is true before, between and
    behind."""
    assert listed(live) == ([1], 1, {1: "READY", 2: "not loaded"}, [])
    assert "* " + "   1  openvino fp32" in (await roll("list")).out
    async with under_load(live.url, {"Authorization": f"Bearer {live.token()}"}) as load:
        promoted = await roll("promote")
        assert promoted.status == 0, promoted.err
        assert promoted.result["version"] == 2
        assert promoted.result["goldens_from"] == "version"
        assert [proof["equal"] for proof in promoted.result["smoke"].values()] == [3]
        assert list(promoted.result["drained"].values()) == [True]
        serving, on_start, states, notes = listed(live)
        assert (serving, on_start, states[2], notes) == ([2], 2, "READY", [])
        assert states[1].startswith("UNAVAILABLE")
        before = len(load.outcomes)
        while len(load.outcomes) < before + 32:
            await asyncio.sleep(0.05)
        assert {outcome.version for outcome in load.outcomes[before + 16 :]} == {"2"}
        back = await roll("rollback")
        assert (back.status, back.result["version"], back.result["replaces"]) == (0, 1, 2), back.err
    assert load.failed == []
    assert load.versions == {"1", "2"}
    assert listed(live)[:2] == ([1], 1)
    assert answers_as(live) == "1"


def rehash(version: Path) -> None:
    """Make the manifest say what the files are now."""
    manifest = json.loads((version / "manifest.json").read_text())
    manifest["files"] = manifests.list_files(version)
    (version / "manifest.json").write_text(json.dumps(manifest))


def flip(file: Path) -> None:
    """One byte in the middle."""
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 0xFF
    file.write_bytes(content)


def corrupt(version: Path) -> None:
    """A byte of the weights is another, and the manifest knows better."""
    flip(version / "engine" / "openvino.bin")


def unloadable(version: Path) -> None:
    """The configuration asks for a cache that is no number."""
    config = version / "config.pbtxt"
    config.write_text(config.read_text().replace('"16384"', '"plenty"'))
    rehash(version)


def forgetful(version: Path) -> None:
    """Well-formed, loads, answers, and says something else than it was known to say: another model's weights."""
    other = version.parent / "1" / "engine"
    shutil.rmtree(version / "engine")
    shutil.copytree(other, version / "engine")
    rehash(version)


def silent(version: Path) -> None:
    """It loads and every step fails."""
    backend = version / "tidegate_backend" / "scheduler.py"
    backend.write_text(backend.read_text().replace("logits = self._engine.step(", "raise EngineError('x'); ("))
    rehash(version)


@pytest.mark.parametrize(
    ("spoil", "says"),
    [(corrupt, "another content"), (unloadable, "does not load"), (forgetful, "known"), (silent, "engine_failed")],
)
async def test_a_bad_version_is_refused(
    live: local.Stack, roll: Roll, built: Path, spoil: Callable[[Path], None], says: str
) -> None:
    """With exit status 7 and the reason in one line; the old version has never stopped, Triton holds nothing of the
    new, and the next start serves the old."""
    config = (live.repository / "generate" / "config.pbtxt").read_bytes()
    bad = live.repository / "generate" / "9"
    shutil.copytree(built / "2", bad)
    spoil(bad)
    try:
        refused = await roll("promote", 9)
        assert (refused.status, refused.result) == (7, {})
        assert says in refused.err.splitlines()[-1]
        assert listed(live)[0] == [1]
        assert listed(live)[2][9] == "not loaded"
        assert (live.repository / "generate" / "config.pbtxt").read_bytes() == config
        assert answers_as(live) == "1"
    finally:
        shutil.rmtree(bad)


async def test_the_users_own_goldens_decide(live: local.Stack, roll: Roll, tmp_path: Path) -> None:
    """A text that must occur and does not is a refusal."""
    own = tmp_path / "own.jsonl"
    own.write_text(json.dumps({"text": "the", "contains": "a text that no random model says"}))
    refused = await roll("promote", 2, "--goldens", own)
    assert refused.status == 7
    assert "golden 1: the answer lacks the text that it must contain" in refused.err
    assert answers_as(live) == "1"


async def test_a_move_that_fails_is_taken_back(live: local.Stack, roll: Roll, built: Path, tmp_path: Path) -> None:
    """The proof is passed, but Triton's own repository lacks the version: what served serves on."""
    elsewhere = tmp_path / "repository"
    shutil.copytree(live.repository, elsewhere)
    shutil.copytree(built / "2", elsewhere / "generate" / "5")
    where = ("--repository", elsewhere, "--name", "generate", "--triton", f"127.0.0.1:{live.ports.grpc}")
    refused = await command("promote", 5, *where)
    assert refused.status == 7
    assert "move: " in refused.err
    assert "does not load" in refused.err.splitlines()[-1]
    assert listed(live)[:2] == ([1], 1)
    assert answers_as(live) == "1"


async def test_killed_while_it_proves_and_finished_by_running_it_again(live: local.Stack, roll: Roll) -> None:
    """`kill -9` with the candidate loaded: the old version serves, `list` tells of the candidate, and the same command
    again lets it go and finishes. No request fails."""
    async with under_load(live.url, {"Authorization": f"Bearer {live.token()}"}, streams=1, max_tokens=100) as load:
        killed = await roll("promote", 2, kill_at="smoke: ")
        assert killed.status == -9, killed.err
        serving, on_start, _, notes = listed(live)
        assert (serving, on_start) == ([1], 1)
        assert "candidate" in notes[0]
        again = await roll("promote", 2)
        assert (again.status, again.result["replaces"]) == (0, 1), again.err
        assert (listed(live)[:2], listed(live)[3]) == (([2], 2), [])
    assert load.failed == []


async def test_killed_before_its_commit_and_undone(live: local.Stack, roll: Roll) -> None:
    """`kill -9` while Triton takes up a proven version: Triton ends up with it, a start would still take the one
    before, `list` says that the rollout was cut short, and `rollback` undoes it. No request fails."""
    async with under_load(live.url, {"Authorization": f"Bearer {live.token()}"}, streams=1, max_tokens=100) as load:
        for seconds in (0.1, 0.2, 0.4, 0.8):  # killed before Triton had heard of it, nothing has changed
            killed = await roll("promote", 1, kill_at="move: ", kill_after=seconds)
            assert killed.status == -9, killed.err
            deadline = time.monotonic() + 15
            while listed(live)[0] != [1] and time.monotonic() < deadline:
                await asyncio.sleep(0.1)
            if listed(live)[0] == [1]:
                break
        assert listed(live)[0] == [1]
        _, on_start, _, notes = listed(live)
        assert on_start == 2
        assert "cut short" in notes[0]
        undone = await roll("rollback", "--fast")
        assert (undone.status, undone.result["version"]) == (0, 2), undone.err
        assert (listed(live)[:2], listed(live)[3]) == (([2], 2), [])
    assert load.failed == []
    assert answers_as(live) == "2"


async def test_a_second_rollout_has_to_wait(live: local.Stack, roll: Roll) -> None:
    """Two at once would pull at one Triton: the second is told so. What already serves is found and left alone."""
    first, second = await asyncio.gather(roll("promote", 1), roll("promote", 1))
    assert sorted((first.status, second.status)) == [0, 4]
    assert "by another process" in first.err + second.err
    again = await roll("promote", 1)
    assert (again.status, again.result["changed"], again.result["smoke"]) == (0, False, {})


def test_who_comes_while_a_version_is_rolled_out_is_brought_along(live: local.Stack, tmp_path: Path) -> None:
    """A second Triton has read `config.pbtxt` before the commit and is found only after it: it serves the new version
    in the end, whether the time to look was over or not."""
    ports = make_stack(live.repository, tmp_path / "run")
    local.start_triton(ports)
    first, second = (Triton(f"127.0.0.1:{each.ports.grpc}", load_seconds=30.0) for each in (live, ports))
    try:
        for target, seconds in ((2, 8.0), (1, 0.0)):
            assert second.serving("generate") == first.serving("generate") == 3 - target
            found = iter([(first,)] if seconds else [])
            rollout = Rollout(
                live.repository,
                "generate",
                (first,),
                live.repository,
                found=lambda found=found: next(found, (first, second)),  # type: ignore[misc]
                follow_seconds=seconds,
            )
            report = promote(rollout, target)
            assert report["drained"] == {first.address: True, second.address: True}
            assert second.serving("generate") == first.serving("generate") == target
    finally:
        first.close()
        second.close()
        local.stop(ports)


def test_a_name_is_every_address_of_it() -> None:
    """Each once, IPv6 only where there is nothing else; an address is itself, and a name that nobody knows is said."""
    told = {
        "triton": [("10.0.0.3", 2), ("10.0.0.2", 2), ("10.0.0.3", 1), ("fd00::1", 0)],
        "six": [("fd00::1", 0), ("fd00::1", 1)],
    }

    def look_up(host: str, port: int, **_: object) -> list[tuple[object, ...]]:
        families = [AF_INET6 if ":" in address else AF_INET for address, _ in told[host]]
        return [(family, 1, 6, "", (each, port)) for family, (each, _) in zip(families, told[host], strict=True)]

    assert addresses(["triton:8001", "six:1"], look_up) == ["10.0.0.2:8001", "10.0.0.3:8001", "[fd00::1]:1"]
    assert addresses(["127.0.0.1:8001", "[::1]:2", "unix:/run/triton", "127.0.0.1:8001"]) == [
        "127.0.0.1:8001",
        "[::1]:2",
        "unix:/run/triton",
    ]
    with pytest.raises(TritonError, match=r"nobody\.invalid:8001"):
        addresses(["nobody.invalid:8001"])
