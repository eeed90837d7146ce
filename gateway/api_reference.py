"""The API as a page: ``python -m gateway openapi`` prints the description that a running gateway serves at
``/openapi.json``, and with ``--page`` the Markdown of docs/api.md.

The description is asked for as a client would, so that it has whatever surfaces the app has.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator, Mapping, MutableMapping
from typing import Any

from starlette.types import ASGIApp

Json = Mapping[str, Any]
HEAD = """# API reference

Printed by `python -m gateway openapi --page`; a test holds it to the code. A running gateway has the same at `/docs`
and `/openapi.json`. What is not under *operations* needs a token or an API key ([access.md](access.md)).
"""


async def description(app: ASGIApp) -> dict[str, Any]:
    """What ``GET /openapi.json`` answers: the app is started, asked, and ended."""
    inbox: asyncio.Queue[dict[str, Any]] = asyncio.Queue()
    outbox: asyncio.Queue[MutableMapping[str, Any]] = asyncio.Queue()
    state: dict[str, Any] = {}

    async def live() -> None:
        await app({"type": "lifespan", "asgi": {"version": "3.0"}, "state": state}, inbox.get, outbox.put)

    life = asyncio.create_task(live())
    await inbox.put({"type": "lifespan.startup"})
    started = await outbox.get()
    if started["type"] != "lifespan.startup.complete":
        raise RuntimeError("the app did not start")
    body = await _got(app, "/openapi.json", state)
    await inbox.put({"type": "lifespan.shutdown"})
    await life
    found: dict[str, Any] = json.loads(body)
    return found


async def _got(app: ASGIApp, path: str, state: Mapping[str, Any]) -> bytes:
    parts: list[bytes] = []
    scope = {
        "type": "http",
        "asgi": {"version": "3.0"},
        "http_version": "1.1",
        "method": "GET",
        "scheme": "http",
        "path": path,
        "raw_path": path.encode(),
        "query_string": b"",
        "root_path": "",
        "headers": [],
        "state": dict(state),
        "client": ("127.0.0.1", 0),
        "server": ("127.0.0.1", 0),
    }
    never = asyncio.Event()
    asked = False

    async def receive() -> MutableMapping[str, Any]:
        nonlocal asked
        if asked:
            await never.wait()
        asked = True
        return {"type": "http.request", "body": b"", "more_body": False}

    async def send(message: MutableMapping[str, Any]) -> None:
        parts.append(message.get("body", b""))

    await app(scope, receive, send)
    return b"".join(parts)


def api_page(document: Json) -> str:
    """Markdown: every operation by its tag, then every schema that they name."""
    operations = [
        (each.get("tags", ["other"])[0], method, path, each)
        for path, methods in document["paths"].items()
        for method, each in methods.items()
    ]
    lines = [HEAD]
    for tag in dict.fromkeys(tag for tag, *_ in operations):
        lines += [f"## {tag}", ""]
        for _, method, path, each in (operation for operation in operations if operation[0] == tag):
            lines += [f"### `{method.upper()} {path}`", "", *_operation(each)]
    lines += ["## Bodies", ""]
    for name, schema in sorted(document["components"]["schemas"].items()):
        lines += [f"### {name}", "", *_schema(schema)]
    return "\n".join(lines).rstrip()


def _operation(each: Json) -> Iterator[str]:
    yield from (_told(each), "")
    parameters = each.get("parameters", [])
    if parameters:
        yield from ("| parameter | in | type | meaning |", "|---|---|---|---|")
        for one in parameters:
            yield f"| `{one['name']}` | {one['in']} | {_kind(one['schema'])} | {_told(one)} |"
        yield ""
    for media, body in each.get("requestBody", {}).get("content", {}).items():
        yield from (f"Takes {_kind(body['schema'])} as `{media}`.", "")
    yield from ("| status | body |", "|---|---|")
    by_body: dict[str, list[str]] = {}
    for status, response in sorted(each["responses"].items()):
        by_body.setdefault(_response(response), []).append(status)
    for said, statuses in by_body.items():
        yield f"| {', '.join(statuses)} | {said} |"
    yield ""


def _response(response: Json) -> str:
    kinds = {media: _kind(body.get("schema", {})) for media, body in response.get("content", {}).items()}
    said = [kind if media == "application/json" else f"{kind} (`{media}`)" for media, kind in kinds.items()]
    return "; ".join(said) if kinds.get("application/json") != "anything" and said else _told(response)


def _schema(schema: Json) -> Iterator[str]:
    if schema.get("description"):
        yield from (_told(schema), "")
    if "properties" not in schema:
        yield from (_kind(schema) + ".", "")
        return
    required = set(schema.get("required", ()))
    yield from ("| field | type | default | meaning |", "|---|---|---|---|")
    for name, one in schema["properties"].items():
        default = "required" if name in required else _default(one)
        yield f"| `{name}` | {_kind(one)} | {default} | {_told(one)} |"
    yield ""


def _default(schema: Json) -> str:
    return f"`{json.dumps(schema['default'])}`" if schema.get("default") is not None else ""


def _told(schema: Json) -> str:
    """The description on one line of a table."""
    return " ".join(str(schema.get("description", "")).split()).replace("``", "`").replace("|", "\\|")


LIMITS = {
    "minimum": "at least {}",
    "maximum": "at most {}",
    "exclusiveMinimum": "above {}",
    "exclusiveMaximum": "below {}",
    "minLength": "at least {} characters",
    "maxLength": "at most {} characters",
    "minItems": "at least {}",
    "maxItems": "at most {}",
    "pattern": "like `{}`",
}


def _kind(schema: Json) -> str:
    """A type in words, with its limits; a named one as a link to its section."""
    if "$ref" in schema:
        name = schema["$ref"].rsplit("/", 1)[-1]
        return f"[{name}](#{name.lower()})"
    for word in ("anyOf", "oneOf", "allOf"):
        if word in schema:
            return " or ".join(dict.fromkeys(_kind(one) for one in schema[word] if one.get("type") != "null"))
    if "const" in schema:
        return f"`{schema['const']}`"
    if "enum" in schema:
        return ", ".join(f"`{each}`" for each in schema["enum"])
    kind = str(schema.get("type", "anything"))
    if kind == "array":
        kind = f"list of {_kind(schema.get('items', {}))}"
    limits = [words.format(str(schema[name]).replace("|", "\\|")) for name, words in LIMITS.items() if name in schema]
    return "; ".join([kind, *limits])
