"""``python -m gateway serve|token|revoke|apikey|settings|openapi|policy|audit``."""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import secrets
import sys
from pathlib import Path

from pydantic import SecretStr, ValidationError

from gateway.access import AccessError, mint
from gateway.access import command as access_command
from gateway.api_reference import api_page, description
from gateway.app import create_app
from gateway.feedback import FeedbackError
from gateway.policy import command
from gateway.policy.audit import AuditError, verify
from gateway.policy.errors import PolicyError
from gateway.reference import settings_table
from gateway.serving import serve
from gateway.settings import DefaultSettings, RedisSettings, Settings
from gateway.telemetry.prices import PriceError
from gateway.tls import TlsError
from gateway.tracing import TracingError
from gateway.traffic.quotas import QuotaError
from gateway.workers import Seat

DAY_SECONDS = 86_400


def main(argv: list[str] | None = None) -> int:
    """Entry point; 2 for settings that do not hold."""
    options = _parser().parse_args(argv)
    if options.command in ("settings", "openapi"):
        print(settings_table() if options.command == "settings" else _openapi(options.page))
        return 0
    if options.command == "audit":
        return _audit(options.path)
    if options.command == "policy":
        return _policy(options)
    try:
        return COMMANDS[options.command](options)
    except ValidationError as error:
        for each in error.errors(include_input=False, include_url=False):
            name = f"TIDEGATE_{str(each['loc'][0]).upper()}: " if each["loc"] else ""
            print(f"error: {name}{each['msg'].removeprefix('Value error, ')}", file=sys.stderr)
    except PolicyError as error:
        print(f"error: TIDEGATE_POLICY_FILE: {error}", file=sys.stderr)
    except (AccessError, FeedbackError, PriceError, QuotaError, TlsError, TracingError) as error:
        print(f"error: {error}", file=sys.stderr)
    return 2


def _openapi(page: bool) -> str:
    """What a gateway with the default settings offers, whatever the environment says. Nothing listens meanwhile."""
    key = SecretStr(secrets.token_hex(32))
    app = create_app(DefaultSettings(environment="development", jwt_key=key))  # type: ignore[call-arg]
    document = asyncio.run(description(app))
    return api_page(document) if page else json.dumps(document, indent=1)


def _audit(path: Path) -> int:
    try:
        report = verify(path)
    except AuditError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print(f"{report.lines} records follow each other" + (f"; broken at {report.broken}" if report.broken else ""))
    return 1 if report.broken else 0


def _policy(options: argparse.Namespace) -> int:
    try:
        return command.run(options)
    except PolicyError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2


def _revoke(options: argparse.Namespace) -> int:
    return access_command.revoke(options, RedisSettings().redis_address() if options.redis else None)


def _serve(options: argparse.Namespace) -> int:
    if options.workers is not None:
        os.environ["TIDEGATE_WORKERS"] = str(options.workers)  # the workers read the environment too
    settings = Settings()  # type: ignore[call-arg]  # every value comes from the environment
    seat = None if options.listen_fd is None else Seat(options.listen_fd, options.place, options.parent)
    try:
        return serve(settings, seat)
    except OSError as error:
        print(f"error: cannot listen on {settings.host}:{settings.port}: {error.strerror}", file=sys.stderr)
        return 1


def _token(options: argparse.Namespace) -> int:
    settings = Settings()  # type: ignore[call-arg]  # every value comes from the environment
    if settings.environment != "development" or settings.jwt_algorithm != "HS256" or not settings.has_key():
        needs = "TIDEGATE_ENVIRONMENT=development, TIDEGATE_JWT_KEY and HS256"
        print(f"error: tokens are minted with {needs} only", file=sys.stderr)
        return 2
    token = mint(
        settings.verification_key(),
        audience=settings.jwt_audience,
        issuer=settings.jwt_issuer,
        subject=options.subject,
        tenant=options.tenant,
        scope=options.scope,
        lifetime_seconds=options.lifetime_seconds,
    )
    print(token)
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m gateway", description="The guarded door in front of Triton.")
    commands = parser.add_subparsers(dest="command", required=True)
    serving = commands.add_parser("serve", help="serve; settings come from TIDEGATE_… (docs/configuration.md)")
    serving.add_argument("--workers", type=int, help="processes that answer; TIDEGATE_WORKERS likewise")
    for name in Seat._fields:  # a worker's, given by its parent
        serving.add_argument(f"--{name.replace('_', '-')}", type=int, help=argparse.SUPPRESS)
    audit = commands.add_parser("audit", help="follow the record's chain; 1 if it is broken")
    audit.add_argument("path", type=Path)
    commands.add_parser("settings", help="print every setting as a Markdown table")
    openapi = commands.add_parser("openapi", help="print the API's description as JSON")
    openapi.add_argument("--page", action="store_true", help="as the Markdown of docs/api.md")
    command.add_commands(commands.add_parser("policy", help="try a policy out: check, lint, schema"))
    access_command.add_commands(commands)
    token = commands.add_parser("token", help="print a development token")
    token.add_argument("--subject", required=True)
    token.add_argument("--tenant", required=True)
    token.add_argument("--scope", default="generate", help="space-separated")
    token.add_argument("--lifetime-seconds", type=int, default=DAY_SECONDS)
    return parser


COMMANDS = {"serve": _serve, "token": _token, "revoke": _revoke, "apikey": access_command.create}


if __name__ == "__main__":
    sys.exit(main())
