"""``python -m build_engine publish|promote|rollback|list``: arguments in, progress on stderr, one JSON line on
stdout."""

from __future__ import annotations

import argparse
import contextlib
import json
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from build_engine.errors import PublishError
from build_engine.listing import as_table, listing
from build_engine.publish import versions
from build_engine.rollout import Rollout, promote, publish_from, roll_back
from build_engine.triton_control import Triton, addresses

DEFAULT_TRITON = "127.0.0.1:8001"


def add_commands(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the four commands; each sets ``run``."""
    put = commands.add_parser("publish", help="copy a built version into a repository without serving it")
    put.add_argument("--from", dest="source", type=Path, required=True, help="a version, or a model: its newest")
    put.add_argument("--repository", type=Path, required=True)
    put.add_argument("--name", help="the model's name in Triton; the one it was built with if not given")
    put.set_defaults(run=_publish)
    go = commands.add_parser("promote", help="prove a version beside the one that serves, then let it take over")
    go.add_argument("version", type=_number, nargs="?", help="the newest if not given")
    _add_rollout(go)
    go.add_argument(
        "--keep-old", type=int, metavar="N", help="remove old versions but the newest N; all stay if not given"
    )
    go.set_defaults(run=_promote)
    back = commands.add_parser("rollback", help="let an earlier version take over again")
    back.add_argument("version", type=_number, nargs="?", help="the one that served before if not given")
    _add_rollout(back)
    back.add_argument("--fast", action="store_true", help="load it once, without the proof beside")
    back.set_defaults(run=_rollback, keep_old=None)
    look = commands.add_parser("list", help="versions on disk and in Triton")
    look.add_argument("--repository", type=Path, required=True)
    look.add_argument("--name", help="all models if not given")
    look.add_argument(
        "--triton", action="append", metavar="HOST:PORT", help="its gRPC, as for promote; repeatable; not asked if none"
    )
    look.add_argument("--json", action="store_true", help="one JSON object a model, one a line")
    look.set_defaults(run=_list)


def _add_rollout(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--repository", type=Path, required=True, help="the folder that Triton serves from")
    parser.add_argument("--name", required=True, help="the model's name in Triton")
    parser.add_argument(
        "--triton",
        action="append",
        metavar="HOST:PORT",
        help=f"its gRPC, at every address of the name; repeatable; {DEFAULT_TRITON} if none",
    )
    parser.add_argument(
        "--triton-repository", type=Path, metavar="DIR", help="the repository as Triton sees it, if elsewhere"
    )
    parser.add_argument(
        "--goldens", type=Path, metavar="FILE", help="JSON lines to ask; the version's own if not given"
    )
    parser.add_argument("--answer-seconds", type=float, default=60.0, help="a golden's answer may take this long")
    parser.add_argument("--load-seconds", type=float, default=600.0, help="loading a version may take this long")
    parser.add_argument(
        "--drain-seconds", type=float, default=300.0, help="wait this long for the old version's answers"
    )
    parser.add_argument(
        "--follow-seconds",
        type=float,
        default=0.0,
        help="look so long after the commit for Tritons that have come meanwhile with what was served before",
    )


def _number(text: str) -> int:
    number = int(text)
    if number < 1:
        raise ValueError
    return number


def _publish(options: argparse.Namespace) -> int:
    _result(publish_from(options.source, options.repository, options.name))
    return 0


def _promote(options: argparse.Namespace) -> int:
    with _rollout(options) as rollout:
        _result(promote(rollout, options.version))
    return 0


def _rollback(options: argparse.Namespace) -> int:
    with _rollout(options) as rollout:
        _result(roll_back(rollout, options.version, trusted=options.fast))
    return 0


def _result(report: dict[str, Any]) -> None:
    sys.stdout.write(f"{json.dumps(report)}\n")


def _list(options: argparse.Namespace) -> int:
    models = [options.repository / options.name] if options.name else sorted(options.repository.glob("*"))
    models = [model for model in models if versions(model)]
    if not models:
        raise PublishError(f"{options.repository} holds no {'model ' + options.name if options.name else 'model'}")
    with _tritons(options.triton or [], 10.0) as found:
        for model in models:
            report = listing(model, found())
            sys.stdout.write(f"{json.dumps(report) if options.json else as_table(report)}\n")
    return 0


@contextlib.contextmanager
def _rollout(options: argparse.Namespace) -> Iterator[Rollout]:
    began = time.monotonic()

    def say(line: str) -> None:
        sys.stderr.write(f"{time.monotonic() - began:6.1f} s  {line}\n")
        sys.stderr.flush()

    with _tritons(options.triton or [DEFAULT_TRITON], options.load_seconds) as found:
        yield Rollout(
            repository=options.repository,
            name=options.name,
            tritons=found(),
            seen_as=options.triton_repository or options.repository.resolve(),
            goldens=options.goldens,
            answer_seconds=options.answer_seconds,
            drain_seconds=options.drain_seconds,
            keep_old=options.keep_old,
            found=found,
            follow_seconds=options.follow_seconds,
            say=say,
        )


@contextlib.contextmanager
def _tritons(names: list[str], load_seconds: float) -> Iterator[Callable[[], tuple[Triton, ...]]]:
    """Who ``names`` stand for at each call."""
    known: dict[str, Triton] = {}

    def found() -> tuple[Triton, ...]:
        now = addresses(names)
        known.update({address: Triton(address, load_seconds) for address in now if address not in known})
        return tuple(known[address] for address in now)

    try:
        yield found
    finally:
        for triton in known.values():
            triton.close()
