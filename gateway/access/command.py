"""``python -m gateway revoke`` and ``apikey create``: take back at once, and give to whom has no identity provider."""

from __future__ import annotations

import argparse
import asyncio
import importlib
import sys
import time
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from gateway.access.api_keys import ApiKeyLine, new_key, written
from gateway.access.errors import AccessError, first_problem
from gateway.access.revocation import RevokedLine, append, append_line, in_hours


def add_commands(commands: Any) -> None:
    """The two commands, added to the parser's."""
    revoke = commands.add_parser("revoke", help="revoke a token, a subject or a tenant, in every worker within 5 s")
    revoke.add_argument("--jti", help="a token's jti, or an API key's id")
    revoke.add_argument("--subject", help="every token of this subject, of whatever issuer")
    revoke.add_argument("--tenant", help="every token of this tenant")
    revoke.add_argument("--hours", type=float, help="for so long, such as a token's lifetime; for ever if not given")
    revoke.add_argument("--file", type=Path, help="append to this file: the gateways' TIDEGATE_REVOCATION_FILE")
    revoke.add_argument("--redis", action="store_true", help="add it in Redis, at the URL in TIDEGATE_REDIS_URL")
    apikey = commands.add_parser("apikey", help="API keys for tenants without an identity provider")
    create = apikey.add_subparsers(dest="apikey_command", required=True).add_parser(
        "create", help="print a new key, once, and the line to store"
    )
    create.add_argument("--tenant", required=True)
    create.add_argument("--subject", required=True, help="whoever uses the key")
    create.add_argument("--scope", default="generate", help="space-separated")
    create.add_argument("--class", dest="tenant_class", default="", help="the tenant's class, for quota and priority")
    create.add_argument("--days", type=float, default=90.0, help="until it expires")
    create.add_argument("--file", type=Path, help="append the line here, instead of printing it")


def revoke(options: argparse.Namespace, redis_url: str | None) -> int:
    """``revoke``. Raises :class:`AccessError`."""
    if options.file is None and not options.redis:
        raise AccessError("give --file, --redis or both: where the gateways look")
    if options.redis and redis_url is None:
        raise AccessError("--redis needs TIDEGATE_REDIS_URL")
    if (options.jti, options.subject, options.tenant).count(None) != 2:
        raise AccessError("give exactly one of --jti, --subject and --tenant")
    until = None if options.hours is None else in_hours(options.hours, "--hours")
    try:
        entry = RevokedLine(jti=options.jti, sub=options.subject, tenant=options.tenant, until=until)
    except ValidationError as error:
        raise AccessError(first_problem(error, "revoke")) from None
    if options.file is not None:
        append(options.file, entry)
    if options.redis:
        try:
            module: Any = importlib.import_module("gateway.access.redis_revocation")
        except ImportError:
            raise AccessError("--redis needs pip install 'tidegate[redis]'") from None
        asyncio.run(module.revoke(redis_url, entry, time.time()))
    return 0


def create(options: argparse.Namespace) -> int:
    """``apikey create``. Raises :class:`AccessError`."""
    if not options.scope.split():
        raise AccessError("--scope is empty, and the key would open nothing: name one scope at least, such as generate")
    key, key_id, digest = new_key()
    try:
        line = ApiKeyLine(
            id=key_id,
            sha256=digest,
            tenant=options.tenant,
            subject=options.subject,
            scopes=options.scope.split(),
            tenant_class=options.tenant_class,
            expires=in_hours(24 * options.days, "--days"),
        )
    except ValidationError as error:
        raise AccessError(first_problem(error, "apikey")) from None
    if options.file is not None:
        append_line(options.file, written(line))
    print(key)
    print("This is shown once. " + ("Its hash is stored." if options.file else "Store this line:"), file=sys.stderr)
    if options.file is None:
        print(written(line))
    return 0
