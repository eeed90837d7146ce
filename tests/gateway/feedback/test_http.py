"""``POST /feedback`` as clients see it: with answers remembered here, and in a real Redis."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import httpx
import pytest

from tests.gateway.conftest import Served, good_token, serve
from tests.gateway.processes import running
from tests.gateway.quotas.redis_server import RedisServer
from tests.gateway.telemetry.scraping import scrape

VERSION = {"model": "generate", "model_version": "7"}


@pytest.fixture(scope="module")
def redis(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    """One for this module."""
    server = RedisServer(tmp_path_factory.mktemp("redis"))
    yield server
    server.thaw()
    server.kill()


@pytest.fixture(params=["here", "redis"])
async def rated(request: pytest.FixtureRequest, tmp_path: Path, redis: RedisServer) -> AsyncIterator[Served]:
    """A gateway that remembers answers in its own memory, and one that does in Redis."""
    settings = {"redis_url": redis.url} if request.param == "redis" else {}
    async with serve(tmp_path, **settings) as served:
        yield served


async def answered(client: httpx.AsyncClient, request_id: str, text: str = "one two") -> str:
    """An answer with this request id."""
    response = await client.post("/generate", json={"text_input": text}, headers={"X-Request-ID": request_id})
    assert response.status_code == 200
    return request_id


async def code(client: httpx.AsyncClient, **body: object) -> str:
    """What feedback is answered with: ``ok`` or the error's code."""
    response = await client.post("/feedback", json=body)
    assert response.status_code != 500
    return "ok" if response.status_code == 200 else f"{response.status_code} {response.json()['error']['code']}"


def unique(tmp_path: Path) -> str:
    """A request id that no other test has, since Redis is shared."""
    return tmp_path.name[-64:].replace("[", "-").replace("]", "-")


async def test_a_score_is_joined_to_the_version_and_counts_once(rated: Served, tmp_path: Path) -> None:
    """The second score of the same answer is refused, whatever it is."""
    async with rated.client() as client:
        name = await answered(client, unique(tmp_path))
        response = await client.post("/feedback", json={"request_id": name, "score": 4, "comment": "good"})
        assert (response.status_code, response.json()) == (200, {"request_id": name, "score": 4})
        assert await code(client, request_id=name, score=1) == "409 feedback_exists"
        assert (await scrape(rated.url)).named("feedback_total") == {frozenset({**VERSION, "score": "4"}.items()): 1}


async def test_of_many_at_once_one_counts(rated: Served, tmp_path: Path) -> None:
    """Twenty scores of one answer in flight together."""
    async with rated.client() as client:
        name = await answered(client, unique(tmp_path))
        codes = await asyncio.gather(*(code(client, request_id=name, score=3) for _ in range(20)))
    assert sorted(codes) == ["409 feedback_exists"] * 19 + ["ok"]
    assert sum((await scrape(rated.url)).named("feedback_total").values()) == 1


async def test_nobody_learns_of_another_answer(rated: Served, tmp_path: Path) -> None:
    """Another subject, or the same name in another tenant, hears the same as of an id that never was; the owner may
    still rate, and another one with the same id rates their own."""
    name = unique(tmp_path)
    async with rated.client() as ann, rated.client(good_token(subject="bob")) as bob:
        await answered(ann, name)
        assert await code(bob, request_id=name, score=5) == "404 request_not_found"
        async with rated.client(good_token(tenant="other")) as elsewhere:
            assert await code(elsewhere, request_id=name, score=5) == "404 request_not_found"
        assert await code(ann, request_id="never", score=5) == "404 request_not_found"
        await answered(bob, name)
        assert await code(ann, request_id=name, score=5) == "ok"
        assert await code(bob, request_id=name, score=1) == "ok"


async def test_an_answer_under_an_id_that_was_rated_stays_rated(rated: Served, tmp_path: Path) -> None:
    """A client that gives all its requests one id has one score."""
    async with rated.client() as client:
        name = await answered(client, unique(tmp_path))
        assert await code(client, request_id=name, score=5) == "ok"
        await answered(client, name)
        assert await code(client, request_id=name, score=5) == "409 feedback_exists"


async def test_a_stream_may_be_rated_before_its_end(rated: Served, tmp_path: Path) -> None:
    """And after its client has left it."""
    body = {"text_input": "say-on:abc", "stream": True}
    headers = {"X-Request-ID": unique(tmp_path)}
    async with rated.client() as client:
        async with client.stream("POST", "/generate", json=body, headers=headers) as response:
            await anext(response.aiter_lines())
        assert await code(client, request_id=unique(tmp_path), score=1) == "ok"


async def test_what_was_refused_was_no_answer(rated: Served, tmp_path: Path) -> None:
    """Nobody rates a refusal."""
    async with rated.client() as client:
        headers = {"X-Request-ID": unique(tmp_path)}
        assert (await client.post("/generate", json={"text_input": "bad word"}, headers=headers)).status_code == 403
        assert await code(client, request_id=unique(tmp_path), score=1) == "404 request_not_found"


@pytest.mark.parametrize(
    "body",
    [
        {"request_id": "a", "score": 0},
        {"request_id": "a", "score": 6},
        {"request_id": "a", "score": "5"},
        {"request_id": "a", "score": 4.5},
        {"request_id": "a b", "score": 5},
        {"request_id": "", "score": 5},
        {"request_id": "a", "score": 5, "comment": "x" * 4001},
        {"request_id": "a", "score": 5, "rating": 1},
        {"score": 5},
    ],
)
async def test_a_body_that_does_not_hold_is_refused(served: Served, body: dict[str, object]) -> None:
    """The field is named."""
    async with served.client() as client:
        assert await code(client, **body) == "422 invalid_field"


async def test_it_needs_a_token(served: Served) -> None:
    """Before the body is read."""
    async with served.client("") as client:
        assert await code(client, request_id="a", score=5) == "401 missing_token"


async def test_comments_are_kept_in_their_file_only(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """A line with what it is about, readable by the owner; not in the log, not in a label."""
    path = tmp_path / "feedback.jsonl"
    with caplog.at_level(logging.DEBUG, logger="tidegate"):
        async with serve(tmp_path, feedback_file=path) as served, served.client() as client:
            await answered(client, "a")
            await answered(client, "b")
            assert await code(client, request_id="a", score=2, comment="MARKER 不好 😀\n") == "ok"
            assert await code(client, request_id="b", score=5) == "ok"
            exposed = (await client.get("/metrics")).text
    first, second = (json.loads(line) for line in path.read_text(encoding="utf-8").splitlines())
    time = first.pop("time")
    assert first == {"tenant": "acme", "request_id": "a", **VERSION, "score": 2, "comment": "MARKER 不好 😀\n"}
    assert (second["comment"], second["time"] >= time) == (None, True)
    assert path.stat().st_mode & 0o077 == 0
    logged = "".join(f"{record.getMessage()}{record.__dict__}" for record in caplog.records)
    assert "MARKER" not in logged + exposed


async def test_it_can_be_switched_off(tmp_path: Path) -> None:
    """There is no such path then, in the description neither."""
    async with serve(tmp_path, feedback_seconds=0) as served, served.client() as client:
        await answered(client, "a")
        assert await code(client, request_id="a", score=5) == "404 not_found"
        assert "/feedback" not in (await client.get("/openapi.json")).json()["paths"]


async def test_answers_are_forgotten_in_time(tmp_path: Path) -> None:
    """After so many seconds they cannot be rated any more."""
    async with serve(tmp_path, feedback_seconds=0.3) as served, served.client() as client:
        await answered(client, "a")
        await answered(client, "b")
        assert await code(client, request_id="a", score=5) == "ok"
        await asyncio.sleep(0.5)
        assert await code(client, request_id="b", score=5) == "404 request_not_found"


async def test_without_redis_answers_come_and_feedback_says_so(tmp_path: Path) -> None:
    """Redis dies: requests are served, feedback is 503, and what could not be remembered is counted."""
    redis = RedisServer(tmp_path)
    async with serve(tmp_path, redis_url=redis.url) as served, served.client() as client:
        await answered(client, "a")
        redis.kill()
        await answered(client, "b")
        assert await code(client, request_id="a", score=5) == "503 feedback_unavailable"
        while not (await scrape(served.url))("feedback_lost_answers_total"):
            await asyncio.sleep(0.02)
        redis.start()
        await answered(client, "c")
        assert await code(client, request_id="c", score=5) == "ok"
    redis.kill()


async def test_replicas_know_each_others_answers(tmp_path: Path, redis: RedisServer) -> None:
    """Two gateways and one Redis, whose URL one of them has from a file: asked here, rated there, refused here."""
    name, url = unique(tmp_path), tmp_path / "redis-url"
    url.write_text(f"{redis.url}\n")
    one, other = serve(tmp_path, redis_url=redis.url), serve(tmp_path, redis_url_file=url)
    async with one as here, other as there, here.client() as asking, there.client() as rating:
        await answered(asking, name)
        assert await code(rating, request_id=name, score=5) == "ok"
        assert await code(asking, request_id=name, score=5) == "409 feedback_exists"


async def test_workers_know_each_others_answers(tmp_path: Path) -> None:
    """Each score on a connection of its own, at once after the answer: wherever it arrives, it counts exactly once."""

    async def rate(number: int) -> list[str]:
        codes = []
        for action in ("ask", "rate", "rate"):
            async with gateway.client() as client:
                if action == "ask":
                    await answered(client, f"answer-{number}")
                else:
                    codes.append(await code(client, request_id=f"answer-{number}", score=number % 5 + 1))
        return codes

    async with running(tmp_path, workers=2) as gateway:
        codes = await asyncio.gather(*(rate(number) for number in range(10)))
        assert codes == [["ok", "409 feedback_exists"]] * 10
        found = await scrape(gateway.url)
    assert found.named("feedback_total") == {
        frozenset({**VERSION, "score": str(score)}.items()): 2 for score in range(1, 6)
    }
