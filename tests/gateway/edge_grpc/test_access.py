"""Who may call what: nothing without a credential but health, nothing without its scope, nothing that is not known."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any

import grpc
import pytest
from tritonclient.grpc import service_pb2 as pb

from ..conftest import good_token
from .kserve import ADMIN, Kserved, bearer, infer, kserve

READS: dict[str, Any] = {
    "ServerMetadata": pb.ServerMetadataRequest(),
    "ModelMetadata": pb.ModelMetadataRequest(name="generate"),
    "ModelConfig": pb.ModelConfigRequest(name="generate"),
    "ModelStatistics": pb.ModelStatisticsRequest(name="generate"),
    "RepositoryIndex": pb.RepositoryIndexRequest(),
}
RULES: dict[str, Any] = {
    name: getattr(pb, kind.DESCRIPTOR.name.replace("Response", "Request"))() for name, kind in ADMIN.items()
}
INFER: dict[str, Any] = {"ModelInfer": infer("numbers", 1.0)}
CLOSED = {**READS, **RULES, **INFER}


def code_of(error: grpc.aio.AioRpcError) -> tuple[grpc.StatusCode, str | None]:
    """Status and the gateway's own code."""
    found = dict(error.trailing_metadata() or ())
    return error.code(), found.get("tidegate-code")  # type: ignore[return-value]


async def refused(door: Kserved, method: str, request: Any, metadata: Any) -> tuple[grpc.StatusCode, str | None]:
    """How a call is refused."""
    async with door.stub() as stub:
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await getattr(stub, method)(request, metadata=metadata)
    return code_of(caught.value)


def needed(method: str) -> str:
    """The scope of a method."""
    return "models:read" if method in READS else "admin" if method in RULES else "generate"


async def test_nothing_but_health_answers_without_a_token(door: Kserved) -> None:
    """Triton is not even asked."""
    for method, request in CLOSED.items():
        status = await refused(door, method, request, ())
        assert status == (grpc.StatusCode.UNAUTHENTICATED, "missing_token"), method
    assert (door.triton.asked, door.triton.controlled) == ([], [])


async def test_each_method_wants_its_own_scope(door: Kserved) -> None:
    """A token with every other scope is not enough."""
    for method, request in CLOSED.items():
        others = {"generate", "models:read", "admin"} - {needed(method)}
        status = await refused(door, method, request, bearer(" ".join(others)))
        assert status == (grpc.StatusCode.PERMISSION_DENIED, "insufficient_scope"), method
    assert (door.triton.asked, door.triton.controlled) == ([], [])


async def test_each_method_answers_with_its_scope(door: Kserved) -> None:
    """And with that one only."""
    async with door.stub() as stub:
        for method, request in CLOSED.items():
            await getattr(stub, method)(request, metadata=bearer(needed(method)))
    assert door.triton.controlled == list(RULES)


async def test_every_method_of_the_protocol_is_accounted_for(door: Kserved) -> None:
    """A method that a new tritonclient brings is UNIMPLEMENTED until somebody gives it a scope."""
    service = pb.DESCRIPTOR.services_by_name["GRPCInferenceService"]
    known = {*CLOSED, "ModelStreamInfer", "ServerLive", "ServerReady", "ModelReady"}
    assert {each.name for each in service.methods} == known
    async with grpc.aio.insecure_channel(door.address) as channel:
        for path in (
            "/inference.GRPCInferenceService/ModelErase",
            "/other.Service/Call",
            "/grpc.health.v1.Health/Watch",
        ):
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await channel.unary_unary(path)(b"", metadata=bearer("generate admin models:read"))
            assert code_of(caught.value) == (grpc.StatusCode.UNIMPLEMENTED, "method_not_allowed")


async def test_health_is_open(door: Kserved) -> None:
    """As over HTTP; ready is what `/health/ready` says."""
    async with door.stub() as stub:
        assert (await stub.ServerLive(pb.ServerLiveRequest())).live
        assert (await stub.ServerReady(pb.ServerReadyRequest())).ready
        assert (await stub.ModelReady(pb.ModelReadyRequest(name="generate"))).ready
        door.triton.ready = False
        assert not (await stub.ServerReady(pb.ServerReadyRequest())).ready
        await door.served.triton_server.stop(None)
        assert not (await stub.ModelReady(pb.ModelReadyRequest(name="generate"))).ready
        assert (await stub.ServerLive(pb.ServerLiveRequest())).live


async def test_health_as_kubernetes_asks_it(door: Kserved) -> None:
    """grpc.health.v1: SERVING, NOT_SERVING, and NOT_FOUND for a service that is not here."""
    async with grpc.aio.insecure_channel(door.address) as channel:
        check = channel.unary_unary("/grpc.health.v1.Health/Check")
        for service in (b"", b"\n\x1einference.GRPCInferenceService"):
            assert await check(service) == b"\x08\x01"
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await check(b"\n\x05other")
        assert caught.value.code() is grpc.StatusCode.NOT_FOUND
        door.triton.ready = False
        assert await check(b"") == b"\x08\x02"


async def test_nobody_can_be_let_in(tmp_path: Path) -> None:
    """With Redis away from the start nobody knows who is revoked: not ready, as over HTTP, though Triton is."""
    async with kserve(tmp_path, redis_url="redis://127.0.0.1:1/0") as door, door.stub() as stub:
        async with door.served.client("") as client:
            assert (await client.get("/health/ready")).status_code == 503
        assert (await stub.ServerLive(pb.ServerLiveRequest())).live
        assert not (await stub.ServerReady(pb.ServerReadyRequest())).ready
        assert not (await stub.ModelReady(pb.ModelReadyRequest(name="generate"))).ready
        async with grpc.aio.insecure_channel(door.address) as channel:
            assert await channel.unary_unary("/grpc.health.v1.Health/Check")(b"") == b"\x08\x02"


Metadata = Callable[[], Any]
BAD: dict[str, tuple[Metadata, str]] = {
    "no scheme": (lambda: (("authorization", good_token()),), "missing_token"),
    "another scheme": (lambda: (("authorization", f"Basic {good_token()}"),), "missing_token"),
    "another audience": (lambda: (("authorization", f"Bearer {good_token(audience='other')}"),), "invalid_token"),
    "another issuer": (lambda: (("authorization", f"Bearer {good_token(issuer='other')}"),), "invalid_token"),
    "not a token": (lambda: (("authorization", "Bearer x.y.z"),), "invalid_token"),
    "too long": (lambda: (("authorization", "Bearer " + "a" * 9000),), "invalid_token"),
    "bytes": (lambda: (("authorization-bin", f"Bearer {good_token()}".encode()),), "missing_token"),
    "another key": (lambda: (("x-authorization", f"Bearer {good_token()}"),), "missing_token"),
    "a good one behind a bad one": (lambda: (("authorization", "Bearer x.y.z"), *bearer()), "invalid_token"),
    "a bad one behind a good one": (lambda: (*bearer(), ("authorization", "Bearer x.y.z")), "invalid_token"),
    "the same one twice": (lambda: (*bearer(), *bearer()), "invalid_token"),
}


async def test_bad_credentials(door: Kserved) -> None:
    """On either method; two credentials are none, since who is meant would depend on who reads."""
    for case, (metadata, code) in BAD.items():
        wanted = grpc.StatusCode.UNAUTHENTICATED, code
        assert await refused(door, "ModelInfer", infer("numbers", 1.0), metadata()) == wanted, case
        async with door.stub() as stub:
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await stub.ModelStreamInfer(metadata=metadata()).read()  # a write could meet the end, and hide why
        assert code_of(caught.value) == wanted, case
    assert door.triton.asked == []


async def test_the_scheme_is_read_in_any_case(door: Kserved) -> None:
    """As over HTTP."""
    async with door.stub() as stub:
        await stub.ModelInfer(infer("numbers", 1.0), metadata=(("authorization", f"bEARER {good_token()}"),))


async def test_a_token_that_expires_does_not_outlive_itself_on_an_open_stream(door: Kserved) -> None:
    """Each request of a stream is let in by itself."""
    from gateway.access import mint

    from ..conftest import KEY

    claims = {"audience": "tidegate", "issuer": "tidegate", "subject": "ann", "tenant": "acme", "scope": "generate"}
    token = mint(KEY, lifetime_seconds=-4, **claims)  # good for one more second of leeway
    async with door.stub() as stub:
        call = stub.ModelStreamInfer(metadata=(("authorization", f"Bearer {token}"),))
        await call.write(infer("numbers", 1.0, id="a"))
        assert not (await call.read()).error_message
        message = ""
        while not message:
            await call.write(infer("numbers", 1.0, id="b"))
            message = (await call.read()).error_message
        assert message.startswith("token_expired: ")


@pytest.mark.parametrize("method", ["ServerMetadata", "ModelReady"])
async def test_a_slow_message_takes_its_time_from_the_call(door: Kserved, method: str) -> None:
    """Triton is asked for what is left of the 5 seconds of such a call, and not for 5 more."""
    async with grpc.aio.insecure_channel(door.address) as channel:
        path = f"/inference.GRPCInferenceService/{method}"
        call = channel.stream_unary(path)(metadata=bearer("models:read"))
        await asyncio.sleep(0.5)
        await call.write(b"")
        await call.done_writing()
        await call
    assert door.triton.remaining[-1] <= 4.6


@pytest.mark.parametrize("where", ["inputs", "outputs", "parameters"])
async def test_shared_memory_is_for_admins(door: Kserved, where: str) -> None:
    """The gateway cannot read what lies there, so no policy can."""
    request = infer("letters", "hello")
    held = (
        request if where == "parameters" else request.inputs[0] if where == "inputs" else request.outputs.add(name="x")
    )
    held.parameters["shared_memory_region"].string_param = "region"
    denied = (grpc.StatusCode.PERMISSION_DENIED, "insufficient_scope")
    assert await refused(door, "ModelInfer", request, bearer()) == denied
    (response,) = await door.talk(request)
    assert response.error_message.startswith("insufficient_scope: ")
    assert door.triton.asked == []
    await door.talk(request, metadata=bearer("generate admin"))
    assert len(door.triton.asked) == 1


async def test_the_request_id_is_the_clients_if_it_is_harmless(door: Kserved) -> None:
    """It comes back behind the answer, and behind a refusal."""
    async with door.stub() as stub:
        call = stub.ModelInfer(infer("numbers", 1.0), metadata=bearer(**{"x-request-id": "abc-1"}))
        await call
        assert dict(await call.trailing_metadata())["x-request-id"] == "abc-1"
        call = stub.ModelInfer(infer("numbers", 1.0), metadata=(("x-request-id", "not harmless"),))
        with pytest.raises(grpc.aio.AioRpcError):
            await call
        assert len(dict(await call.trailing_metadata())["x-request-id"]) == 32
