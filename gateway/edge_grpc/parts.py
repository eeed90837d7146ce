"""What the door stands on: made by the app, shared with the HTTP door."""

from __future__ import annotations

from dataclasses import dataclass

from gateway.access import Authenticator
from gateway.edge_grpc.calls import Limits
from gateway.generation import Generation
from gateway.policy.engine import PolicyEngine
from gateway.readiness import Readiness
from gateway.telemetry import Telemetry
from gateway.tracing import Tracer
from gateway.traffic.admission import Admission
from gateway.traffic.drain import Drain
from gateway.traffic.quotas import Quotas


@dataclass(frozen=True)
class Parts:
    """The gateway's own, but for ``limits``."""

    readiness: Readiness
    generation: Generation
    policy: PolicyEngine
    authenticator: Authenticator
    admission: Admission
    quotas: Quotas
    telemetry: Telemetry
    drain: Drain
    limits: Limits
    tracer: Tracer | None = None
