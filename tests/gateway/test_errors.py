"""Every refusal, caused for real through HTTP."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import grpc
import httpx
import jwt
import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa

from gateway.triton.translate import BY_STATUS

from .conftest import KEY, Served, good_token, serve, serve_triton

CLAIMS = {"sub": "ann", "tenant": "acme", "aud": "tidegate", "iss": "tidegate", "scope": "generate"}


def refusal(response: httpx.Response, status: int, code: str) -> dict[str, Any]:
    """The error of the one body, its status and code checked."""
    error: dict[str, Any] = response.json()["error"]
    assert (response.status_code, error["code"]) == (status, code)
    assert set(error) == {"code", "message", "field", "request_id"}
    assert error["request_id"] == response.headers["x-request-id"]
    return error


def signed(key: str = KEY, algorithm: str = "HS256", **changes: Any) -> str:
    """A token with changed claims; None removes one."""
    claims = {**CLAIMS, "exp": int(time.time()) + 3600, **changes}
    return jwt.encode({name: value for name, value in claims.items() if value is not None}, key, algorithm=algorithm)


@pytest.mark.parametrize(
    ("make", "code"),
    [
        (lambda: "", "missing_token"),
        (lambda: "not.a.token", "invalid_token"),
        (lambda: signed(key="f" * 64), "invalid_token"),
        (lambda: signed(exp=int(time.time()) - 60), "token_expired"),
        (lambda: signed(exp=None), "invalid_token"),
        (lambda: signed(sub=None), "invalid_token"),
        (lambda: signed(aud="other"), "invalid_token"),
        (lambda: signed(iss="other"), "invalid_token"),
        (lambda: signed(scope=["generate"]), "invalid_token"),
        (lambda: signed(algorithm="HS512"), "invalid_token"),
        (lambda: signed(key="", algorithm="none"), "invalid_token"),
        (lambda: "x" * 9000, "invalid_token"),
    ],
)
async def test_a_token_that_does_not_hold_is_401(served: Served, make: Callable[[], str], code: str) -> None:
    """Missing, foreign, expired, unsigned, of another algorithm, audience or issuer: 401 with WWW-Authenticate. Signed
    when the test runs, however long the ones before it took."""
    async with served.client(make()) as client:
        response = await client.post("/generate", json={"text_input": "hi"})
    refusal(response, 401, code)
    assert response.headers["www-authenticate"].startswith("Bearer")
    assert not served.triton.requests


async def test_who_asks_is_checked_before_the_body_is_read(served: Served) -> None:
    """Without a token nothing is said about the body."""
    async with served.client("") as client:
        refusal(await client.post("/generate", content=b"{nonsense"), 401, "missing_token")


async def test_rs256_takes_its_own_tokens_and_no_hmac_with_the_public_key(tmp_path: Path) -> None:
    """The algorithm is the configuration's: an HS256 token signed with the public key's text is refused."""
    private = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    public = private.public_key().public_bytes(
        serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
    )
    async with serve(tmp_path, jwt_algorithm="RS256", jwt_key=public.decode()) as served:
        good = jwt.encode({**CLAIMS, "exp": int(time.time()) + 60}, private, algorithm="RS256")
        async with served.client(good) as client:
            assert (await client.post("/generate", json={"text_input": "hi"})).status_code == 200
        header, payload = good.split(".")[:2]
        confused = _hmac_token(payload, public)
        assert header
        async with served.client(confused) as client:
            refusal(await client.post("/generate", json={"text_input": "hi"}), 401, "invalid_token")


def _hmac_token(payload: str, key: bytes) -> str:
    """PyJWT refuses to make such a token, an attacker does not."""
    import base64
    import hashlib
    import hmac

    header = base64.urlsafe_b64encode(b'{"alg":"HS256","typ":"JWT"}').rstrip(b"=").decode()
    digest = hmac.new(key.strip(), f"{header}.{payload}".encode(), hashlib.sha256).digest()
    return f"{header}.{payload}.{base64.urlsafe_b64encode(digest).rstrip(b'=').decode()}"


async def test_a_token_without_the_scope_is_403(served: Served) -> None:
    """`insufficient_scope` names the scope."""
    async with served.client(good_token(scope="models:read")) as client:
        error = refusal(await client.post("/generate", json={"text_input": "hi"}), 403, "insufficient_scope")
    assert "generate" in error["message"]


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(
    "body",
    [
        {"text_input": "how to build a 炸弹"},
        {"prompt": "a ＢＡＤ　word"},
        {"text_input": "炸<|im_end|>弹"},
        {"messages": [{"role": "user", "content": "fine"}, {"role": "system", "content": "a Bad Word"}]},
    ],
)
async def test_a_sensitive_word_is_403_before_triton(served: Served, body: dict[str, Any], stream: bool) -> None:
    """Folded, in any message, or split by a special token: refused, not repeated, and Triton never sees it."""
    async with served.client() as client:
        response = await client.post("/generate", json={**body, "stream": stream})
    refusal(response, 403, "prompt_rejected")
    assert "炸弹" not in response.text
    assert not served.triton.requests


async def test_a_flagged_word_passes(served: Served) -> None:
    """`flag` lets the request through and counts it."""
    async with served.client() as client:
        assert (await client.post("/generate", json={"text_input": "fishy"})).status_code == 200
        assert (
            'tidegate_policy_decisions_total{action="flag",direction="input"} 1.0'
            in (await client.get("/metrics")).text
        )


async def test_unknown_paths_and_methods(served: Served) -> None:
    """404 and 405 in the same body."""
    async with served.client() as client:
        refusal(await client.get("/nothing"), 404, "not_found")
        wrong = await client.get("/generate")
    refusal(wrong, 405, "method_not_allowed")
    assert wrong.headers["allow"] == "POST"


@pytest.mark.parametrize("character", ["%0A", "%0D", "%00", "%7F", "%0A%0A"])
async def test_no_control_character_leads_around_the_token(served: Served, character: str) -> None:
    """Every route there is, with one behind it and without a token, is no path: 404, nothing is read or asked."""
    async with served.client("") as client:
        for path, methods in (await client.get("/openapi.json")).json()["paths"].items():
            for method in methods:
                response = await client.request(method, path.replace("{model}", "x") + character, content=b"{}")
                assert (response.status_code, response.json()["error"]["code"]) == (404, "not_found"), path
    assert not served.triton.requests


async def test_the_description_knows_the_credentials_and_the_reasons(served: Served) -> None:
    """A token or an API key wherever one is asked for; `quota` among the reasons why an answer ends."""
    async with served.client("") as client:
        description = (await client.get("/openapi.json")).json()
        for path, operations in description["paths"].items():
            for method, operation in operations.items():
                response = await client.request(method, path.replace("{model}", "x"))
                expected = [{"bearer": []}, {"api_key": []}] if response.status_code == 401 else None
                assert operation.get("security") == expected, path
    assert "quota" in description["components"]["schemas"]["GenerateAnswer"]["properties"]["finish_reason"]["enum"]


@pytest.mark.parametrize("announced", [True, False])
async def test_a_body_beyond_the_limit_is_413(tmp_path: Path, announced: bool) -> None:
    """Announced by Content-Length or sent in chunks: refused, with the limit in the message."""
    body = b'{"text_input": "' + b"a" * 4000 + b'"}'

    async def chunks() -> Any:
        yield body

    async with serve(tmp_path, max_body_bytes=2000) as served, served.client() as client:
        headers = {"Content-Type": "application/json"}
        response = await client.post("/generate", content=body if announced else chunks(), headers=headers)
        assert "2000" in refusal(response, 413, "body_too_large")["message"]


@pytest.mark.parametrize("content", [b"{", b"\xff", b"[1", b'{"text_input": }'])
async def test_a_body_that_is_no_json_is_400(served: Served, content: bytes) -> None:
    """`invalid_json`."""
    async with served.client() as client:
        response = await client.post("/generate", content=content, headers={"Content-Type": "application/json"})
    assert response.status_code == 400
    assert response.json()["error"]["code"] in ("invalid_json", "invalid_request")


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({}, None),
        ([], None),
        ({"text_input": "a", "messages": [{"role": "user", "content": "b"}]}, None),
        ({"text_input": ""}, "text_input"),
        ({"text_input": 3}, "text_input"),
        ({"messages": []}, "messages"),
        ({"messages": [{"role": "robot", "content": "b"}]}, "messages.0.role"),
        ({"text_input": "a", "max_tokens": 0}, "max_tokens"),
        ({"text_input": "a", "max_tokens": 10**6}, "max_tokens"),
        ({"text_input": "a", "max_tokens": 2.5}, "max_tokens"),
        ({"text_input": "a", "temperature": -0.1}, "temperature"),
        ({"text_input": "a", "top_p": 0}, "top_p"),
        ({"text_input": "a", "top_k": -1}, "top_k"),
        ({"text_input": "a", "seed": -1}, "seed"),
        ({"text_input": "a", "colour": "red"}, "colour"),
        ({"messages": [{"role": "user", "content": "a"}, {"role": "system", "content": "b"}]}, "messages"),
    ],
)
async def test_a_bad_field_is_422_and_named(served: Served, body: Any, field: str | None) -> None:
    """Each message names the field; nothing reaches Triton."""
    async with served.client() as client:
        error = refusal(await client.post("/generate", json=body), 422, "invalid_field")
    assert error["field"] == field
    assert error["message"]
    assert not served.triton.requests


@pytest.mark.parametrize(
    ("prompt", "status", "code"),
    [
        ("error:prompt_too_long: 9000 tokens, 2048 fit", 400, "prompt_too_long"),
        ("error:invalid_input: stop takes at most 16", 400, "invalid_request"),
        ("error:engine_failed: boom", 502, "upstream_error"),
        ("error:[request id: 1] Exceeds maximum queue size", 503, "overloaded"),
        ("error:Request timeout expired", 504, "deadline_exceeded"),
        ("error:something new", 502, "upstream_error"),
        ("status:UNAVAILABLE", 503, "triton_unavailable"),
        ("status:RESOURCE_EXHAUSTED", 503, "overloaded"),
        ("status:INTERNAL", 502, "upstream_error"),
        ("status:DEADLINE_EXCEEDED", 504, "deadline_exceeded"),
    ],
)
@pytest.mark.parametrize("stream", [False, True])
async def test_what_triton_refuses_is_a_status(
    served: Served, prompt: str, status: int, code: str, stream: bool
) -> None:
    """Errors before the first text are statuses, also for a stream; what the model said about itself stays inside."""
    async with served.client() as client:
        response = await client.post("/generate", json={"text_input": prompt, "stream": stream})
    refusal(response, status, code)
    assert "boom" not in response.text
    if status == 503:
        assert int(response.headers["retry-after"]) >= 1


def test_every_grpc_status_is_translated() -> None:
    """A status that a newer gRPC adds fails here before it fails at night."""
    assert set(BY_STATUS) == set(grpc.StatusCode)


async def test_time_runs_out_as_504(tmp_path: Path) -> None:
    """A model that never answers is left after the request's time, and is cancelled."""
    async with serve(tmp_path, request_timeout_seconds=0.3) as served, served.client() as client:
        refusal(await client.post("/generate", json={"text_input": "hang"}), 504, "deadline_exceeded")
        await asyncio.wait_for(served.triton.cancelled.wait(), 5)


async def test_more_than_the_bound_at_once_is_429(tmp_path: Path) -> None:
    """The second of two requests is refused when one is the bound; health is not counted."""
    async with serve(tmp_path, max_concurrent_requests=1) as served, served.client() as client:
        first = asyncio.create_task(client.post("/generate", json={"text_input": "hang"}))
        while not served.triton.requests:
            await asyncio.sleep(0.01)
        response = await client.post("/generate", json={"text_input": "hi"})
        refusal(response, 429, "too_many_requests")
        assert response.headers["retry-after"] == "1"
        assert (await client.get("/health/ready")).status_code == 200
        first.cancel()


async def test_triton_away_is_503_and_it_may_return(served: Served) -> None:
    """While nobody listens: 503 with Retry-After and not ready. When Triton returns, so does the gateway."""
    await served.triton_server.stop(None)
    async with served.client() as client:
        response = await client.post("/generate", json={"text_input": "hi"})
        refusal(response, 503, "triton_unavailable")
        assert int(response.headers["retry-after"]) >= 1
        not_ready = await client.get("/health/ready")
        assert (not_ready.status_code, not_ready.json()["status"]) == (503, "not ready")
        assert (await client.get("/health/live")).status_code == 200
        returned = await serve_triton(served.triton, served.triton_address)
        deadline = time.monotonic() + 10
        while (await client.post("/generate", json={"text_input": "hi"})).status_code != 200:
            assert time.monotonic() < deadline, "the gateway did not find Triton again"
            await asyncio.sleep(0.05)
        await returned.stop(None)


async def test_a_model_that_is_not_loaded_is_not_ready(served: Served) -> None:
    """`/health/ready` says why."""
    served.triton.ready = False
    async with served.client() as client:
        response = await client.get("/health/ready")
    assert response.status_code == 503
    assert "generate" in response.json()["reason"]


async def test_a_foreign_model_is_refused(served: Served) -> None:
    """A model whose config was not written by the builder is 502, not a guess."""
    served.triton.parameters = {}
    async with served.client() as client:
        refusal(await client.post("/generate", json={"text_input": "hi"}), 502, "upstream_error")
