"""``python -m gateway policy check|lint|schema``: a policy tried out before it counts, and the past judged again."""

from __future__ import annotations

import argparse
import json
import sys
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, TextIO

from gateway.policy import lint
from gateway.policy.compiled import Listed, Policy, benign_texts, compile_policy, load_policy, read_allow, read_lists
from gateway.policy.config import PolicyFile, read_policy
from gateway.policy.errors import PolicyError
from gateway.policy.guard import Outcome
from gateway.policy.matcher import Matcher
from gateway.policy.moderators import Services
from gateway.policy.verdict import strictest

SHOWN = 20
EXPECTED = "expected a JSON object in UTF-8 with text, text_input, prompt or messages"


def add_commands(parser: argparse.ArgumentParser) -> None:
    """The sub-commands."""
    commands = parser.add_subparsers(dest="policy_command", required=True)
    check = commands.add_parser("check", help="read JSON lines with text (or prompt, or messages), write verdicts")
    check.add_argument("--policy", type=Path, required=True)
    check.add_argument("--tenant", default="", help="judge as for this tenant")
    check.add_argument("--direction", choices=("input", "output"), default="input")
    score = commands.add_parser("lint", help="score every entry on ordinary texts; 1 if the policy would be refused")
    score.add_argument("--policy", type=Path, required=True)
    score.add_argument("--benign", type=Path, help="ordinary texts, one a line, instead of the policy's own")
    commands.add_parser("schema", help="print the policy file's JSON schema")


def run(options: argparse.Namespace) -> int:
    """Run a sub-command. Raises :class:`PolicyError`."""
    if options.policy_command == "schema":
        print(json.dumps(PolicyFile.model_json_schema(), indent=1))
        return 0
    if options.policy_command == "lint":
        return _lint(options.policy, options.benign)
    return _check(load_policy(options.policy), options, sys.stdin.buffer, sys.stdout)


def _check(policy: Policy, options: argparse.Namespace, source: Iterable[bytes], target: TextIO) -> int:
    rules, counts, bad = policy.rules(options.direction, options.tenant), Counter[str](), 0
    for number, texts in _read(source):
        if texts is None:
            bad += 1
            target.write(json.dumps({"line": number, "error": EXPECTED}) + "\n")
            continue
        spans = [rules.check(text) for text in texts]
        action = strictest(span.action for each in spans for span in each)
        counts[action] += 1
        matches = [
            {"text": place, "source": span.source, "category": span.category, "action": span.action}
            | {"start": span.start, "end": span.end}
            for place, each in enumerate(spans)
            for span in each
        ]
        line = {"line": number, "action": action, "policy": policy.version, "matches": matches}
        target.write(json.dumps(line, ensure_ascii=False) + "\n")
    total = sum(counts.values())
    shares = ", ".join(f"{action} {count} ({count / total:.2%})" for action, count in counts.most_common())
    print(f"{total} checked: {shares}" if total else "nothing to check", file=sys.stderr)
    if bad:
        print(f"error: {bad} lines could not be read: {EXPECTED}", file=sys.stderr)
    return 2 if bad else 0


def _read(source: Iterable[bytes]) -> Iterator[tuple[int, list[str] | None]]:
    """Every line's texts, None where it has none."""
    for number, line in enumerate(source, 1):
        if line.strip():
            try:
                texts = _texts(json.loads(line))
            except (ValueError, TypeError, KeyError, RecursionError):
                texts = None
            yield number, texts


def _texts(value: dict[str, Any]) -> list[str]:
    if "messages" in value:
        found = [_content(message["content"]) for message in value["messages"]]
    else:
        given = (value[key] for key in ("text", "text_input", "prompt") if key in value)
        found = [text for each in given for text in (each if isinstance(each, list) else [each])]
    if not found or not all(isinstance(each, str) for each in found):
        raise ValueError
    return found


def _content(value: Any) -> Any:
    """A text, or parts of one, which become lines, as they do under ``/v1/``."""
    return "\n".join(part["text"] for part in value) if isinstance(value, list) else value


def _lint(path: Path, benign: Path | None) -> int:
    file = read_policy(path)
    if benign is not None:
        file = file.model_copy(update={"lint": file.lint.model_copy(update={"benign": str(benign.resolve())})})
    texts = benign_texts(file, path.parent)
    for listed in read_lists(file, path.parent, str(path)):
        _report(listed, texts, file.lint.max_rate, read_allow(file.allow, path.parent)[0])
    try:
        policy = compile_policy(file, path.parent, str(path), Services(_Nobody(), _Nobody()))
    except PolicyError as error:
        print(f"refused: {error}")
        return 1
    print(f"accepted as {policy.version}" + (f"; {policy.demoted} entries only flag" if policy.demoted else ""))
    return 0


class _Nobody:
    """Stands behind moderators that are made, to see whether they can be, and never asked."""

    async def classify(self, model: str, text: str) -> dict[str, float]:
        """See :class:`~gateway.policy.triton_moderator.Classifier`."""
        raise NotImplementedError

    def checked(self, moderator: str, outcome: Outcome, seconds: float) -> None:
        """See :class:`~gateway.policy.guard.GuardObserver`."""

    def let_through(self, moderator: str, outcome: Outcome) -> None:
        """See :class:`~gateway.policy.guard.GuardObserver`."""

    def breaker(self, moderator: str, is_open: bool) -> None:
        """See :class:`~gateway.policy.guard.GuardObserver`."""


def _report(listed: Listed, texts: tuple[str, ...], most: float, allow: Matcher | None) -> None:
    part = listed.part
    scores = lint.score(listed.lines, part.folds.folds(), part.match == "word", texts, allow, pinyin=part.pinyin)
    over = sum(each.rate > most for each in scores)
    print(
        f"{listed.part.name}: {len(listed.lines)} entries, {len(scores)} hit any of {len(texts)} ordinary texts, ",
        end="",
    )
    print(f"{over} more than {most:.2%} of them")
    for each in scores[:SHOWN]:
        print(f"  {each.rate:8.3%}  {listed.acts(each.line):6}  line {each.line.number}: {each.line.word}")
    for line in lint.too_short(listed.lines, listed.part.folds.folds())[:SHOWN]:
        print(f"  one letter  {listed.acts(line):6}  line {line.number}: {line.word}")
