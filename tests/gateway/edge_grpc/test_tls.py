"""TLS on both doors and towards Triton: certificates that are renewed, clients that must show one, files that do not
hold."""

from __future__ import annotations

import asyncio
import ssl
from pathlib import Path
from typing import Any

import grpc
import httpx
import pytest
from cryptography import x509
from pydantic import ValidationError
from tritonclient.grpc import service_pb2 as pb
from tritonclient.grpc import service_pb2_grpc

from gateway.settings import Settings
from gateway.tls import Certificate, TlsError

from ..conftest import KEY, free_port, good_token
from .kserve import KServeTriton, bearer, infer
from .process import Authority, Process, running, secure_channel, started


class Files:
    """A folder of a door's files."""

    def __init__(self, folder: Path, authority: Authority) -> None:
        self.folder, self.authority = folder, authority
        self.settings = {"tls_cert_file": str(folder / "cert.pem"), "tls_key_file": str(folder / "key.pem")}

    def write(self, name: str, days: int = 30) -> bytes:
        """A new certificate and its key; returns the certificate."""
        certificate, key = self.authority.issue(name, days)
        (self.folder / "key.pem").write_bytes(key)
        (self.folder / "cert.pem").write_bytes(certificate)
        return certificate


async def infer_over(channel: grpc.aio.Channel) -> Any:
    """One call."""
    async with channel:
        stub = service_pb2_grpc.GRPCInferenceServiceStub(channel)
        return await stub.ModelInfer(infer("numbers", 1.0), metadata=bearer(), timeout=5)


async def shown(port: int, authority: Authority) -> bytes:
    """The certificate (DER) that a door shows to a new connection."""
    context = ssl.create_default_context(cadata=authority.pem.decode())
    context.set_alpn_protocols(["h2", "http/1.1"])
    _, writer = await asyncio.open_connection("127.0.0.1", port, ssl=context, server_hostname="localhost")
    found: bytes = writer.get_extra_info("ssl_object").getpeercert(binary_form=True)
    writer.close()
    return found


def der(pem: bytes) -> bytes:
    """The same certificate in binary."""
    from cryptography.hazmat.primitives.serialization import Encoding

    return x509.load_pem_x509_certificate(pem).public_bytes(Encoding.DER)


async def expiry(process: Process, authority: Authority) -> float:
    """What the metric says."""
    context = ssl.create_default_context(cadata=authority.pem.decode())
    async with httpx.AsyncClient(verify=context, base_url=f"https://localhost:{process.port}") as client:
        text = (await client.get("/metrics")).text
    return float(text.split("\ntidegate_certificate_expiry_timestamp_seconds ")[1].split("\n")[0])


async def test_both_doors_speak_tls_and_take_up_a_renewed_certificate(tmp_path: Path) -> None:
    """Without a restart, for new connections; a key that does not fit yet changes nothing; the metric follows."""
    authority = Authority("one")
    files = Files(tmp_path, authority)
    first = files.write("first", days=5)
    async with running(tmp_path, host="localhost", grpc_host="127.0.0.1", **files.settings) as process:
        context = ssl.create_default_context(cadata=authority.pem.decode())
        headers = {"Authorization": f"Bearer {good_token()}"}
        async with httpx.AsyncClient(verify=context, base_url=f"https://localhost:{process.port}") as client:
            answer = await client.post("/generate", json={"text_input": "one two"}, headers=headers)
            assert answer.json()["text_output"] == "one two"
        assert (await infer_over(secure_channel(process.address, authority.pem))).outputs[0].name == "doubled"
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await infer_over(secure_channel(process.address, Authority("stranger").pem))
        assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
        with pytest.raises(grpc.aio.AioRpcError):
            await infer_over(grpc.aio.insecure_channel(process.address))
        ends = x509.load_pem_x509_certificate(first).not_valid_after_utc.timestamp()
        assert await expiry(process, authority) == ends
        _, stranger = authority.issue("stranger")
        (tmp_path / "key.pem").write_bytes(stranger)
        await asyncio.sleep(2.5)
        assert await shown(process.grpc_port, authority) == der(first) == await shown(process.port, authority)
        second = files.write("second", days=20)
        for port in (process.grpc_port, process.port):
            for _ in range(100):
                if await shown(port, authority) == der(second):
                    break
                await asyncio.sleep(0.1)
            assert await shown(port, authority) == der(second)
        assert await expiry(process, authority) > ends


async def test_clients_must_show_a_certificate_where_that_is_asked(tmp_path: Path) -> None:
    """On both doors, from the one authority that is named."""
    authority, clients = Authority("servers"), Authority("clients")
    files = Files(tmp_path, authority)
    files.write("door")
    (tmp_path / "clients.pem").write_bytes(clients.pem)
    mutual = {**files.settings, "tls_client_ca_file": str(tmp_path / "clients.pem")}
    async with running(tmp_path, **mutual) as process:
        good, bad = clients.issue("ann"), Authority("other").issue("eve")
        assert (await infer_over(secure_channel(process.address, authority.pem, good))).outputs
        for client in (None, bad):
            with pytest.raises(grpc.aio.AioRpcError):
                await infer_over(secure_channel(process.address, authority.pem, client))
        for client, works in ((good, True), (None, False), (bad, False)):
            context = ssl.create_default_context(cadata=authority.pem.decode())
            if client is not None:
                (tmp_path / "client.pem").write_bytes(client[0] + client[1])
                context.load_cert_chain(tmp_path / "client.pem")
            async with httpx.AsyncClient(verify=context, base_url=f"https://127.0.0.1:{process.port}") as session:
                if works:
                    assert (await session.get("/health/live")).status_code == 200
                else:
                    with pytest.raises(httpx.TransportError):
                        await session.get("/health/live")


async def test_tls_towards_triton(tmp_path: Path) -> None:
    """Triton's certificate must come from the named authority; from another one Triton is away."""
    authority = Authority("triton")
    certificate, key = authority.issue("localhost")
    server = grpc.aio.server()
    service_pb2_grpc.add_GRPCInferenceServiceServicer_to_server(KServeTriton(), server)
    port = server.add_secure_port("127.0.0.1:0", grpc.ssl_server_credentials([(key, certificate)]))
    await server.start()
    url = f"localhost:{port}"
    (tmp_path / "triton.pem").write_bytes(authority.pem)
    (tmp_path / "other.pem").write_bytes(Authority("other").pem)
    try:
        async with running(tmp_path, triton_url=url, triton_tls_ca_file=str(tmp_path / "triton.pem")) as process:
            assert (await infer_over(grpc.aio.insecure_channel(process.address))).outputs
            async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{process.port}") as client:
                assert (await client.get("/health/ready")).status_code == 200
        async with (
            running(tmp_path, triton_url=url, triton_tls_ca_file=str(tmp_path / "other.pem")) as process,
            grpc.aio.insecure_channel(process.address) as channel,
        ):
            stub = service_pb2_grpc.GRPCInferenceServiceStub(channel)
            assert not (await stub.ServerReady(pb.ServerReadyRequest())).ready
    finally:
        await server.stop(None)


async def test_files_that_do_not_hold_are_named_at_the_start(tmp_path: Path) -> None:
    """By the setting's name and nothing of a key; the command ends with 2."""
    authority = Authority("one")
    certificate, key = authority.issue("door")
    contents = {"cert": certificate, "key": key, "other": authority.issue("door")[1], "text": b"not PEM"}
    for name, content in contents.items():
        (tmp_path / name).write_bytes(content)
    (tmp_path / "policy.yaml").write_text("version: test\n", encoding="utf-8")
    cases = [
        (("cert", "other", None), "TIDEGATE_TLS_KEY_FILE"),
        (("cert", "text", None), "TIDEGATE_TLS_KEY_FILE"),
        (("cert", "absent", None), "TIDEGATE_TLS_KEY_FILE"),
        (("text", "key", None), "TIDEGATE_TLS_CERT_FILE"),
        (("absent", "key", None), "TIDEGATE_TLS_CERT_FILE"),
        (("cert", "key", "text"), "TIDEGATE_TLS_CLIENT_CA_FILE"),
    ]
    for files, named in cases:
        with pytest.raises(TlsError, match=named) as caught:
            Certificate(*(None if each is None else tmp_path / each for each in files))  # type: ignore[arg-type]
        assert "PRIVATE KEY" not in str(caught.value)
    for lonely in ("tls_cert_file", "tls_key_file", "tls_client_ca_file"):
        with pytest.raises(ValidationError, match="TIDEGATE_TLS_CERT_FILE"):
            Settings(jwt_key=KEY, environment="development", **{lonely: tmp_path / "cert"})  # type: ignore[arg-type]
    usual = {"jwt_key": KEY, "policy_file": str(tmp_path / "policy.yaml"), "port": str(free_port())}
    child = await started({**usual, "triton_tls_ca_file": str(tmp_path / "text")})
    _, errors = await asyncio.wait_for(child.communicate(), 60)
    assert (child.returncode, b"TIDEGATE_TRITON_TLS_CA_FILE" in errors) == (2, True)
