"""The certificate of :mod:`gateway.tls` for the gRPC server."""

from __future__ import annotations

import grpc

from gateway.tls import Certificate, Pair


def server_credentials(certificate: Certificate) -> grpc.ServerCredentials:
    """The library asks before each handshake which certificate counts, so a renewed one needs no restart. It asks from
    a thread of its own; reading one reference is all that happens there."""

    def of(pair: Pair) -> grpc.ServerCertificateConfiguration:
        return grpc.ssl_server_certificate_configuration([(pair.key, pair.chain)], pair.client_ca)

    given = certificate.pair

    def fetch() -> grpc.ServerCertificateConfiguration | None:
        nonlocal given
        pair = certificate.pair
        if pair is given:
            return None
        given = pair
        return of(pair)

    return grpc.dynamic_ssl_server_credentials(
        of(given), fetch, require_client_authentication=given.client_ca is not None
    )
