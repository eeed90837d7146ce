"""Every kind of moderator on the real surface: a real safety service over HTTP, Triton's classifier, own code."""

from __future__ import annotations

import asyncio
import contextlib
import json
import threading
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import uvicorn

from gateway.errors import RecordUnavailable
from gateway.policy.audit import numbered, verify
from gateway.policy.compiled import load_policy
from gateway.policy.engine import PolicyEngine
from gateway.policy.errors import PolicyError
from gateway.policy.guard import Guarded, Limits
from gateway.policy.http_moderator import HttpModerator, Mapped, ModeratorError, filled, pointed, read
from gateway.policy.moderators import Services
from gateway.policy.python_moderator import load_moderator
from gateway.policy.triton_moderator import windows
from gateway.policy.verdict import Context
from gateway.telemetry import Telemetry
from gateway.triton import TritonClassifier
from tests.gateway.conftest import Served, free_port, serve
from tests.gateway.policy.judges import HANGING

CONTEXT = Context("r", "t", "output", "before")


class Service:
    """A content-safety service in the style of ``/v1/moderations``; it misbehaves when the text says so."""

    def __init__(self) -> None:
        self.requests: list[tuple[dict[str, str], Any]] = []

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """ASGI."""
        if scope["type"] != "http":
            return
        body = (await receive())["body"]
        asked = json.loads(body)
        self.requests.append(({key.decode(): value.decode() for key, value in scope["headers"]}, asked))
        text = asked["input"]
        status, content = 200, json.dumps(self._answer("violence" in text)).encode()
        if "five hundred" in text:
            status, content = 500, b"no"
        elif "nonsense" in text:
            content = b"<html>"
        elif "huge" in text:
            content = b" " * 100_000
        elif "moved" in text:
            status = 307
        elif "hang" in text:
            await asyncio.sleep(60)
        await send({"type": "http.response.start", "status": status, "headers": [(b"location", b"/elsewhere")]})
        await send({"type": "http.response.body", "body": content})

    def _answer(self, flagged: bool) -> dict[str, Any]:
        scores = {"violence": 0.9 if flagged else 0.01, "hate": 0.02}
        return {
            "id": "modr-1",
            "results": [
                {"flagged": flagged, "categories": {"violence": flagged, "hate": False}, "category_scores": scores}
            ],
        }


@contextlib.asynccontextmanager
async def running(app: Any) -> AsyncIterator[str]:
    """The service on loopback."""
    port = free_port()
    server = uvicorn.Server(
        uvicorn.Config(app, port=port, log_config=None, lifespan="off", timeout_graceful_shutdown=1)
    )
    task = asyncio.create_task(server.serve())
    while not server.started:
        await asyncio.sleep(0.01)
    try:
        yield f"http://127.0.0.1:{port}/v1/moderations"
    finally:
        server.should_exit = True
        await task


@pytest.fixture
async def service() -> AsyncIterator[tuple[Service, str]]:
    """The service and its address."""
    made = Service()
    async with running(made) as url:
        yield made, url


@contextlib.asynccontextmanager
async def gateway(tmp_path: Path, moderators: str, **settings: object) -> AsyncIterator[Served]:
    """A gateway with these moderators."""
    policy = tmp_path / "moderated.yaml"
    policy.write_text(f"version: m\nmoderators:\n{moderators}", encoding="utf-8")
    async with serve(tmp_path, policy_file=policy, **settings) as served:
        yield served


def safety(url: str, more: str) -> str:
    """The service as a moderator."""
    return f"  - {{name: safety, kind: http, preset: openai, url: '{url}', {more}}}\n"


async def ask(served: Served, text: str, **more: Any) -> tuple[int, dict[str, Any]]:
    """Status and body."""
    async with served.client() as client:
        response = await client.post("/generate", json={"text_input": text, "include_policy": True, **more})
        return response.status_code, response.json()


async def test_an_openai_style_service(
    tmp_path: Path, service: tuple[Service, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """As it is: blocked input is 403, allowed input passes, the key goes along."""
    monkeypatch.setenv("SAFETY_KEY", "Bearer very-secret")
    made, url = service
    part = safety(url, "headers: {authorization: {env: SAFETY_KEY}}")
    async with gateway(tmp_path, part) as served:
        status, body = await ask(served, "some violence here")
        assert (status, body["error"]["code"]) == (403, "prompt_rejected")
        status, body = await ask(served, "a nice day")
        assert (status, body["text_output"]) == (200, "a nice day")
        assert body["policy"]["input"]["action"] == "allow"
    headers, asked = made.requests[0]
    assert (headers["authorization"], asked) == ("Bearer very-secret", {"input": "some violence here"})


@pytest.mark.parametrize("text", ["five hundred", "nonsense", "huge", "moved", "please hang"])
@pytest.mark.parametrize(("on_error", "status"), [("block", 403), ("allow", 200), ("flag", 200)])
async def test_a_service_that_fails(
    tmp_path: Path, service: tuple[Service, str], text: str, on_error: str, status: int
) -> None:
    """Fails closed unless the policy says otherwise; counted either way."""
    _, url = service
    part = safety(url, f"on_error: {on_error}, deadline_seconds: 0.2, apply: [input]")
    async with gateway(tmp_path, part) as served:
        got, body = await ask(served, text)
        assert got == status
        if got == 200:
            (said,) = body["policy"]["input"]["moderators"]
            assert (said["action"], said["error"]) == (on_error, "deadline" if text == "please hang" else "failed")
        async with served.client() as client:
            metrics = (await client.get("/metrics")).text
    outcome = "deadline" if text == "please hang" else "failed"
    assert f'tidegate_moderator_duration_seconds_count{{moderator="safety",outcome="{outcome}"}} 1.0' in metrics
    passed = f'tidegate_policy_failed_open_total{{moderator="safety",outcome="{outcome}"}} 1.0'
    assert (passed in metrics) == (on_error != "block")
    assert 'tidegate_moderator_breaker_open{moderator="safety"} 0.0' in metrics


@pytest.mark.parametrize("stream", [False, True])
async def test_nothing_leaves_unchecked(tmp_path: Path, service: tuple[Service, str], stream: bool) -> None:
    """``hold: segment``: sentence by sentence; a blocked one does not leave, and the model is stopped."""
    _, url = service
    part = safety(url, "apply: [output]")
    async with gateway(tmp_path, part) as served, served.client() as client:
        text = "say-on:All is well. Then violence came. More of it"
        response = await client.post("/generate", json={"text_input": text, "stream": stream})
        body = response.text
        async with asyncio.timeout(10):
            await served.triton.cancelled.wait()
    assert "All is well." in body
    assert "violence" not in body
    assert "content_filter" in body


async def test_what_is_sent_is_cut(tmp_path: Path, service: tuple[Service, str]) -> None:
    """``hold: none``: text leaves at once, and the answer ends when the service has said so."""
    _, url = service
    part = safety(url, "apply: [output], hold: none")
    async with gateway(tmp_path, part) as served, served.client() as client:
        text = "say-on:Some violence. " + "and on " * 60
        body = (await client.post("/generate", json={"text_input": text})).json()
    assert body["finish_reason"] == "content_filter"
    assert body["text_output"].startswith("Some violence.")
    assert len(body["text_output"]) < len(text) - 20


async def test_nothing_leaves_behind_a_verdict(tmp_path: Path) -> None:
    """``hold: none``: not even the piece that comes with it, nor an answer that comes as one."""
    policy, own = tmp_path / "policy.yaml", "kind: python, entry_point: 'tests.gateway.policy.judges:blocking'"
    policy.write_text(f"version: x\nmoderators: [{{name: a, {own}, options: {{word: kumquat}}, hold: none}}]\n")
    engine = PolicyEngine(load_policy(policy, Services(TritonClassifier("127.0.0.1:1"), Telemetry())), Telemetry())
    guard = engine.output(CONTEXT)
    assert await guard.feed("A kumquat! And") == "A kumquat! And"
    async with asyncio.timeout(10):
        while not guard.blocked:
            left = await guard.feed(" on")
            assert left == ("" if guard.blocked else " on")
            await asyncio.sleep(0)
    whole = engine.output(CONTEXT)
    assert await whole.feed("A kumquat! And on", last=True) == ""
    assert whole.blocked
    fine = engine.output(CONTEXT)
    assert await fine.feed("A quince! And on", last=True) == "A quince! And on"
    await engine.close()


async def test_triton_s_classifier(tmp_path: Path) -> None:
    """Asked over gRPC in the same Triton; a label from its threshold on."""
    part = "  - {name: insults, kind: triton, model: insults, labels: {insult: {threshold: 0.8, action: redact}}}\n"
    async with gateway(tmp_path, part) as served:
        status, body = await ask(served, "be rude")
        assert (status, body["text_output"]) == (200, "*******")
        said = {"moderator": "insults", "action": "redact", "categories": ["insult"], "score": 0.875}
        assert body["policy"]["input"]["moderators"] == [said]
        assert served.triton.classified[0] == "be rude"
        assert (await ask(served, "be broken"))[0] == 403
        async with served.client() as client:
            metrics = (await client.get("/metrics")).text
        labels = 'action="redact",category="insult",direction="input",source="insults"'
        assert f"tidegate_policy_matches_total{{{labels}}} 1.0" in metrics
        assert 'category="other"' not in metrics
        assert (await ask(served, "be kind"))[1]["text_output"] == "be kind"


@pytest.mark.parametrize("padding", ["A kind word. ", "一句好话。", "xy"])
async def test_a_classifier_sees_all_of_a_long_text(tmp_path: Path, padding: str) -> None:
    """However much stands before it, window by window; of a text that is masked, the windows that are found."""
    part = "  - {name: insults, kind: triton, model: insults, apply: [input], labels: {insult: {action: redact}}}\n"
    text = padding * 200 + " And rude. " + padding * 200
    async with gateway(tmp_path, part) as served:
        status, _ = await ask(served, text, max_tokens=1)
        pieces = served.triton.classified
        asked = served.triton.requests[0]["text_input"][4:].decode()
    assert status == 200
    assert sum(map(len, pieces)) >= len(text)
    assert max(map(len, pieces)) <= 250
    assert "rude" not in asked
    assert asked.startswith(padding)
    assert asked.endswith(padding)


def test_windows_leave_nothing_out() -> None:
    """Not at their edges either: what nothing separates is in one of them, up to a length."""
    text = "x" * 1000 + "。" + "y" * 300 + ", " + "z" * 600
    found = list(windows(text))
    assert (found[0][0], found[-1][1]) == (0, len(text))
    for start in (*range(950), *range(1001, 1250), *range(1303, len(text) - 50)):
        assert any(begin <= start and start + 50 <= end for begin, end in found)
    assert list(windows("")) == [(0, 0)]
    assert list(windows("Well. " * 50)) == [(0, 245), (245, 300)]


async def test_own_code(tmp_path: Path) -> None:
    """An entry point with options; its spans are masked; a tenant may have another action."""
    entry, options = "'tests.gateway.policy.judges:blocking'", "{word: kumquat, action: redact}"
    own = f"{{name: own, kind: python, entry_point: {entry}, options: {options}}}"
    async with gateway(tmp_path, f"  - {own}\ntenants: {{acme: {{actions: {{own: flag}}}}, other: {{}}}}\n") as served:
        assert (await ask(served, "a kumquat"))[1]["text_output"] == "a kumquat"
    async with gateway(tmp_path, f"  - {own}\n") as served:
        assert (await ask(served, "a kumquat"))[1]["text_output"] == "a *******"
        async with served.client() as client:
            metrics = (await client.get("/metrics")).text
    labels = 'action="redact",category="other",direction="input",source="own"'
    assert f"tidegate_policy_matches_total{{{labels}}} 1.0" in metrics
    assert "custom" not in metrics


async def test_own_code_that_hangs_holds_up_nobody_else() -> None:
    """However often it is asked: its threads are its own, and no more run than may."""
    moderator = load_moderator("tests.gateway.policy.judges:hanging", {}, 2)
    guard = Guarded("m", moderator, Limits(deadline_seconds=0.02, concurrency=2, failures=1000), Telemetry())
    before = threading.active_count()
    try:
        verdicts = await asyncio.gather(*(guard.check("x", CONTEXT) for _ in range(50)))
        assert {each.error for each in verdicts} == {"deadline"}
        assert threading.active_count() <= before + 2
        async with asyncio.timeout(5):
            assert await asyncio.to_thread(int, "1") == 1
    finally:
        HANGING.may_end.set()
        await guard.close()


async def test_decisions_are_recorded(tmp_path: Path) -> None:
    """Input and output, with lengths and categories, never the text; the chain holds."""
    policy = tmp_path / "recorded.yaml"
    policy.write_text("version: r\nlists: [{name: fruit, words: [kumquat], action: redact, category: food}]\n")
    path = tmp_path / "audit.jsonl"
    async with serve(tmp_path, policy_file=policy, audit_file=path) as served:
        _, body = await ask(served, "a kumquat MARKER")
    lines = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    assert [(each["direction"], each["action"]) for each in lines] == [("input", "redact"), ("output", "allow")]
    assert lines[0]["matches"] == [{"source": "fruit", "category": "food", "action": "redact", "length": 7}]
    assert {each["request_id"] for each in lines} == {body["id"]}
    assert (lines[0]["tenant"], verify(path).broken) == ("acme", None)
    assert "MARKER" not in path.read_text(encoding="utf-8")


async def test_texts_are_recorded_if_configured(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """As they were written, before anything was masked, up to a bound; the log says so at the start."""
    policy = tmp_path / "recorded.yaml"
    policy.write_text("version: r\nlists: [{name: fruit, words: [kumquat], action: redact}]\n")
    path = tmp_path / "audit.jsonl"
    async with serve(tmp_path, policy_file=policy, audit_file=path, audit_text=True) as served:
        await ask(served, "a kumquat")
        await ask(served, "long " * 4000)
    lines = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    assert [each["texts"] for each in lines[:2]] == [["a kumquat"], ["a *******"]]
    assert [(len(each["texts"][0]), each["texts_cut"]) for each in lines[2:]] == [(10_000, True)] * 2
    assert "TIDEGATE_AUDIT_TEXT is set" in caplog.text


async def test_what_cannot_be_recorded_is_refused(tmp_path: Path) -> None:
    """503 while the record cannot be written, on HTTP as it comes; answered again once it can."""
    path = tmp_path / "audit.jsonl"
    in_the_way = numbered(path, 2)
    (in_the_way / "x").mkdir(parents=True)
    settings: dict[str, Any] = {"audit_file": path, "audit_max_bytes": 4096, "audit_max_files": 2}
    async with serve(tmp_path, **settings) as served, served.client() as client, asyncio.timeout(20):
        while (response := await client.post("/generate", json={"text_input": "x"})).status_code == 200:
            pass
        assert (response.status_code, response.json()["error"]["code"]) == (503, "record_unavailable")
        in_the_way.rename(tmp_path / "elsewhere")
        while (response := await client.post("/generate", json={"text_input": "x"})).status_code != 200:
            assert response.json()["error"]["code"] == "record_unavailable"
    assert verify(path).broken is None


class Forgetful:
    """Records what is asked and not what is answered."""

    def record(self, entry: dict[str, Any]) -> bool:
        """As it does."""
        return bool(entry["direction"] == "input")


@pytest.mark.parametrize("text", ["a fine thing", "炸弹"])
async def test_an_answer_that_cannot_be_recorded_does_not_end_well(tmp_path: Path, text: str) -> None:
    """What is left of it is withheld; without ``unrecorded_blocks`` it passes. A blocked one is no exception."""
    policy = tmp_path / "policy.yaml"
    policy.write_text("version: x\nlists: [{name: w, words: [炸弹]}]\n", encoding="utf-8")
    for required in (False, True):
        engine = PolicyEngine(load_policy(policy), Telemetry(), Forgetful(), unrecorded_blocks=required)
        guard = engine.output(CONTEXT)
        with pytest.raises(RecordUnavailable) if required else contextlib.nullcontext():
            await guard.feed(text)
            await guard.finish()


@pytest.mark.parametrize(
    ("moderator", "says"),
    [
        ("{name: a, kind: python, entry_point: nowhere}", "must be package.module:factory"),
        ("{name: a, kind: python, entry_point: 'no.such:thing'}", "'no.such:thing' cannot be loaded"),
        ("{name: a, kind: python, entry_point: 'tests.gateway.policy.judges:failing'}", "failed with ValueError"),
        ("{name: a, kind: python, entry_point: 'tests.gateway.policy.judges:wrong'}", "without a method check"),
        ("{name: a, kind: http, url: 'http://x:y', preset: openai}", "moderator 'a': url is no address"),
        ("{name: a, kind: http, url: 'http://x', preset: openai, headers: {k: 'schlüssel'}}", "the header 'k' holds"),
        ("{name: a, kind: http, url: 'http://x', preset: openai, headers: {'k y': v}}", "the header 'k y' holds"),
        ("{name: a, kind: http, url: 'http://x'}", "moderators.0.http: give preset, or body"),
        ("{name: a, kind: http, url: 'http://x', body: {}, scores: /s}", "scores mean nothing without"),
        ("{name: a, kind: http, url: 'http://x', body: {}, flagged: /f, thresholds: {x: 1}}", "without scores"),
        ("{name: a, kind: http, url: 'http://x', body: {}, flagged: f}", "moderators.0.http.flagged"),
        ("{name: a, kind: http, url: 'http://x', preset: openai, flagged: /f}", "preset has its own"),
        ("{name: a, kind: http, url: 'ftp://x', preset: openai}", "moderators.0.http.url"),
        ("{name: a, kind: http, url: 'http://x', preset: openai, headers: {k: {env: NO_SUCH}}}", "has no NO_SUCH"),
        ("{name: a, kind: http, url: 'http://x', preset: openai, headers: {k: {file: none}}}", "none cannot be read"),
        ("{name: a, kind: triton, model: m, labels: {}}", "moderators.0.triton.labels"),
        ("{name: a, kind: magic}", "moderators.0"),
    ],
)
def test_what_cannot_be_made_is_refused(tmp_path: Path, moderator: str, says: str) -> None:
    """When the policy is read."""
    policy = tmp_path / "policy.yaml"
    policy.write_text(f"version: x\nmoderators:\n  - {moderator}\n", encoding="utf-8")
    with pytest.raises(PolicyError) as refused:
        load_policy(policy, Services(TritonClassifier("127.0.0.1:1"), Telemetry()))
    assert says in str(refused.value)


@pytest.mark.parametrize("code", ["def make(:\n", "1 / 0\n"])
def test_own_code_that_cannot_be_imported_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: str
) -> None:
    """Whatever it raises, the policy is what cannot be used."""
    name = f"own_{len(code)}"
    (tmp_path / f"{name}.py").write_text(code, encoding="utf-8")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(PolicyError, match=f"'{name}:make' cannot be loaded"):
        load_moderator(f"{name}:make", {}, 1)


def test_a_template_is_filled_once() -> None:
    """What a user writes is never taken for a place."""
    values = {"segment": "{tenant} {x}", "tenant": "acme"}
    assert filled({"a": ["{segment}|{tenant}|{other}", 1]}, values) == {"a": ["{tenant} {x}|acme|{other}", 1]}


def test_an_answer_is_read_by_pointers() -> None:
    """Booleans, lists, scores with thresholds; what is not there is a failure."""
    mapped = Mapped(body={}, scores="/a~1b/0", thresholds={"x": 0.5, "*": 0.9})
    verdict = read({"a/b": [{"x": 0.6, "y": 0.6}]}, mapped, "flag")
    assert (verdict.action, verdict.categories, verdict.score) == ("flag", ("x",), 0.6)
    assert read({"tags": ["spam"]}, Mapped(body={}, categories="/tags"), "block").categories == ("spam",)
    assert read({"tags": []}, Mapped(body={}, categories="/tags"), "block").action == "allow"
    both = Mapped(body={}, categories="/tags", scores="/s", thresholds={"x": 0.5})
    assert read({"tags": ["spam"], "s": {"x": 0.1}}, both, "block").categories == ("spam",)
    assert read({"tags": [], "s": {"x": 0.1, "note": "n/a"}}, both, "block").action == "allow"
    assert read({"tags": [], "s": {"x": 0.6}}, both, "block").categories == ("x",)
    for score in ("0.9", None, float("nan")):
        with pytest.raises(ModeratorError, match="no number"):
            read({"tags": [], "s": {"x": score}}, both, "block")
    for answer in ({}, {"ok": "yes"}, [], None):
        with pytest.raises(ModeratorError):
            read(answer, Mapped(body={}, flagged="/ok"), "block")
    assert pointed({"": {"~": 1}}, "//~0") == 1


async def test_a_closed_door(tmp_path: Path) -> None:
    """A service that is not there is a failure as well."""
    moderator = HttpModerator(f"http://127.0.0.1:{free_port()}/", Mapped(body={}, flagged="/x"), action="block")
    with pytest.raises(Exception, match="connection"):
        await moderator.check("x", CONTEXT)
    await moderator.close()
