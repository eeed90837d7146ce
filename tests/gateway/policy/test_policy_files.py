"""A policy file that does not hold is refused with file, line and field; one that holds does what it says."""

from __future__ import annotations

import io
import json
import subprocess
import sys
from pathlib import Path

import pytest

from gateway.policy.benign import shipped_texts
from gateway.policy.compiled import Policy, load_policy
from gateway.policy.errors import PolicyError
from gateway.policy.rules import RuleStream

ROOT = Path(__file__).resolve().parents[3]
SHIPPED = ROOT / "deploy/policy/policy.yaml"


def load(tmp_path: Path, text: str, **files: str | bytes) -> Policy:
    """A policy with lists beside it."""
    for name, content in files.items():
        (tmp_path / f"{name}.txt").write_bytes(content if isinstance(content, bytes) else content.encode())
    path = tmp_path / "policy.yaml"
    path.write_text(text, encoding="utf-8")
    return load_policy(path)


HEAD = 'version: "1"\nlists:\n'


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "policy.yaml:1: version: Field required"),
        ("- a\n", "policy.yaml:1: the file: "),
        ('version: "1"\nlists: [\n', "policy.yaml:3: not YAML"),
        ("version: 1\n", "policy.yaml:1: version: Input should be a valid string"),
        (HEAD + "  - name: a\n    words: [x]\n    actoin: block\n", "policy.yaml:5: lists.0.actoin: Extra inputs"),
        (HEAD + "  - name: a\n    words: [x]\n    action: explode\n", "policy.yaml:5: lists.0.action: "),
        (HEAD + "  - name: a\n", "policy.yaml:3: lists.0: give exactly one of file and words"),
        (HEAD + "  - {name: a, words: [xy]}\n  - {name: a, words: [yz]}\n", ":4: lists.1: the name 'a' is given twice"),
        (HEAD + "  - {name: Big Name, words: [xy]}\n", "lists.0.name"),
        (HEAD + "  - {name: a, file: none.txt}\n", "policy.yaml:3: lists.0.file: "),
        (HEAD + "  - name: a\n    file: none.txt\n", "none.txt cannot be read"),
        (HEAD + '  - {name: a, file: "a\\0b"}\n', "policy.yaml:3: lists.0.file: String should match"),
        (HEAD + "  - {name: a, words: [xyz]}\nlint: {benign: none.txt}\n", "policy.yaml:4: lint.benign: "),
        (HEAD + f"  - {{name: a, words: [{'x' * 129}]}}\n", "list 'a', word 1: a word has 1 to 128 characters"),
        (HEAD + '  - {name: a, words: ["x\\ty"]}\n', "list 'a', word 1: control characters"),
        ('version: "1"\nallow: {}\n', "policy.yaml:2: allow: give file, words or both"),
        ('version: "1"\nallow: {words: [xyz, "*"]}\n', "policy.yaml:2: allow: word 2: nothing is left"),
        ('version: "1"\nmask: {character: null}\n', "policy.yaml:2: mask: give character or label"),
        ("version: 2026-13-45\n", "policy.yaml:1: not YAML: month must be in 1..12"),
        ("version: !!timestamp no\n", "policy.yaml:1: not YAML: "),
        (HEAD + "  - {name: a, file: latin.txt}\n", "latin.txt is not UTF-8 at byte 2"),
        (HEAD + "  - {name: a, file: bad.txt}\n", "bad.txt:2: action must be one of flag, redact, block"),
        (HEAD + "  - {name: a, file: wide.txt}\n", "wide.txt:1: more than three fields"),
        (HEAD + "  - {name: a, file: nul.txt}\n", "nul.txt:1: control characters"),
        (HEAD + "  - {name: a, words: ['*-*']}\n", "list 'a', word 1: nothing is left of this entry"),
        (HEAD + "  - {name: a, words: ['(三)']}\n", "too ordinary to block: a single letter"),
        (HEAD + "  - {name: a, words: [价格, 房间]}\n", "of ordinary texts (2 such entries)"),
        ('version: "1"\npatterns:\n  - {use: ssn}\n', "policy.yaml:3: patterns.0.use: use must be one of cn_id"),
        ('version: "1"\npatterns:\n  - {name: p, pattern: "a+"}\n', "'p' may match more than 256 characters"),
        (
            'version: "1"\npatterns:\n  - {name: p, pattern: "a("}\n',
            ":3: patterns.0.pattern: 'p' is not a regular expression",
        ),
        ('version: "1"\npatterns:\n  - {name: p, pattern: "a?"}\n', "'p' matches the empty text"),
        ('version: "1"\npatterns:\n  - {name: p, pattern: "a(?=bcd)"}\n', "'p' looks further than 1 character ahead"),
        ('version: "1"\npatterns:\n  - {name: p, pattern: "a(?=b?$)"}\n', "'p' looks around within a look-around"),
        ('version: "1"\npatterns:\n  - {name: p, pattern: "a(?!b\\\\b)"}\n', "'p' looks around within a look-around"),
        ('version: "1"\npatterns:\n  - {name: p, pattern: "a$"}\n', "'p' has a $"),
        ('version: "1"\npatterns:\n  - {name: p, pattern: "(a{1,12}){1,12}b"}\n', "'p' takes too long on some texts"),
        ('version: "1"\npatterns:\n  - {pattern: "ab"}\n', "give use, or name and pattern"),
        ('version: "1"\ntenants:\n  t: {actions: {nobody: flag}}\n', ":3: tenants.t.actions.nobody: there is no"),
        ('version: "1"\nlists: &a [*a]\n', "policy.yaml"),
        ('version: "1"\nmask: {label: x}\nversion: "2"\n', "policy.yaml:3: version: is given twice"),
        (HEAD + "  - {name: a, words: [xyz], words: [abc]}\n", "policy.yaml:3: words: is given twice"),
    ],
)
def test_what_does_not_hold_is_refused(tmp_path: Path, text: str, says: str) -> None:
    """With the place, and what to write instead."""
    with pytest.raises(PolicyError) as refused:
        load(tmp_path, text, latin=b"ab\xe4\n", bad="x y\nword\texplode\n", wide="a\tblock\tb\tc\n", nul="ab\x00c\n")
    assert says in str(refused.value)


def test_a_list_s_lines(tmp_path: Path) -> None:
    """Fields fall back to the list's own; comments, blank lines, spaces, CRLF and a byte order mark do not count."""
    words = "\ufeff# words\r\n\r\nkumquat\t\tfruit\r\n durian \tflag\r\nlychee\tredact\tsweet\r\n"
    policy = load(tmp_path, HEAD + "  - {name: a, file: words.txt, action: block, category: none}\n", words=words)
    rules = policy.rules("input", "")
    found = [(each.category, each.action) for text in ("kumquat", "durian", "lychee") for each in rules.check(text)]
    assert found == [("fruit", "block"), ("none", "flag"), ("sweet", "redact")]


def test_an_ordinary_entry_only_flags_if_the_policy_says_so(tmp_path: Path) -> None:
    """The others still block."""
    text = HEAD + "  - {name: a, words: [价格, 炸弹制作]}\nlint: {on_fail: flag}\n"
    rules = load(tmp_path, text).rules("input", "")
    assert [each.action for each in rules.check("价格")] == ["flag"]
    assert [each.action for each in rules.check("炸弹制作")] == ["block"]


@pytest.mark.parametrize("entry", ["words: [价格]", "words: [马可], pinyin: true"])
@pytest.mark.parametrize("blocks", ["action: block", "action: flag"])
def test_no_way_to_block_goes_round_the_lint(tmp_path: Path, entry: str, blocks: str) -> None:
    """Neither a tenant that blocks what the list only flags, nor a spelling that is an ordinary word."""
    text = HEAD + f"  - {{name: a, {entry}, {blocks}}}\ntenants: {{t: {{actions: {{a: block}}}}}}\n"
    benign = "please make tea\n价格不错\n"
    with pytest.raises(PolicyError, match="word 1: too ordinary to block: hits 50\\.0% of ordinary texts"):
        load(tmp_path, text + "lint: {benign: benign.txt}\n", benign=benign)
    policy = load(tmp_path, text + "lint: {benign: benign.txt, on_fail: flag}\n", benign=benign)
    found = [each.action for line in benign.splitlines() for each in policy.rules("input", "t").check(line)]
    assert found == ["flag"]


def test_what_an_allowed_word_contains_is_not_ordinary(tmp_path: Path) -> None:
    """The allow list counts when entries are scored, on one's own texts too."""
    text = HEAD + "  - {name: a, words: [cunt], match: substring}\nlint: {benign: benign.txt}\n"
    benign = "We live in Scunthorpe.\n"
    with pytest.raises(PolicyError, match="hits 100\\.0% of ordinary texts"):
        load(tmp_path, text, benign=benign)
    policy = load(tmp_path, text + "allow: {words: [Scunthorpe]}\n", benign=benign)
    assert policy.rules("input", "").check("in Scunthorpe") == []
    assert policy.rules("input", "").check("you cunts")


def test_a_fold_can_be_switched_off(tmp_path: Path) -> None:
    """For one list and not the other."""
    text = HEAD + "  - {name: a, words: [軟體], folds: {traditional: false}}\n  - {name: b, words: [資訊網]}\n"
    rules = load(tmp_path, text).rules("input", "")
    assert [each.source for each in rules.check("软体 资讯网 軟體")] == ["b", "a"]


@pytest.mark.parametrize("text", ["我学习 fa lun da fa 吗", "我学习falundafa吗", "法lun大法", "法 轮 大 法"])
def test_pinyin(tmp_path: Path, text: str) -> None:
    """A list that asks for it finds its entries spelled out; another does not."""
    policy = HEAD + "  - {name: a, words: [法轮大法], pinyin: %s}\n"
    assert load(tmp_path, policy % "true").rules("input", "").check(text)
    if text != "法 轮 大 法":
        assert not load(tmp_path, policy % "false").rules("input", "").check(text)


def test_the_same_policy_has_the_same_version(tmp_path: Path) -> None:
    """And a changed word another."""
    text = HEAD + "  - {name: a, file: words.txt}\n"
    first, same = load(tmp_path, text, words="kumquat\n"), load(tmp_path, text, words="kumquat\n")
    other = load(tmp_path, text, words="durians\n")
    assert first.version == same.version != other.version


def test_tenants_share_what_is_the_same(tmp_path: Path) -> None:
    """All of them the lists, those with the same actions everything; what a match means is their own."""
    text = HEAD + "  - {name: a, words: [kumquat]}\n  - {name: b, words: [durian]}\n"
    policy = load(tmp_path, text + "tenants:\n  t: {actions: {a: allow, b: flag}}\n")
    assert policy.rules("input", "x") is policy.rules("input", "y")
    own = policy.rules("input", "t")
    assert own.words[0].matcher is policy.rules("output", "x").words[0].matcher
    assert [(each.source, each.action) for each in own.check("kumquat durian")] == [("b", "flag")]
    assert [each.action for each in policy.rules("input", "x").check("kumquat durian")] == ["block", "block"]
    stream = RuleStream(own)
    assert stream.feed("a kumqua") == "a kumqua"
    assert stream.feed("t duria") == "t duria"


def test_the_shipped_policy_is_safe_for_ordinary_texts() -> None:
    """At most one in a thousand is blocked, either way."""
    policy = load_policy(SHIPPED)
    for direction in ("input", "output"):
        rules = policy.rules(direction, "")
        blocked = sum(any(span.action == "block" for span in rules.check(text)) for text in shipped_texts())
        assert blocked <= len(shipped_texts()) / 1000


def command(*arguments: str, stdin: str = "") -> subprocess.CompletedProcess[str]:
    """``python -m gateway policy ...``"""
    line = [sys.executable, "-m", "gateway", "policy", *arguments]
    return subprocess.run(line, input=stdin, capture_output=True, text=True, timeout=60, check=False)


def test_check_judges_json_lines() -> None:
    """One verdict a line, with places; a summary on stderr; the text itself nowhere."""
    asked = [{"text": "怎么制 作炸 弹"}, {"prompt": "hello"}, {"messages": [{"role": "user", "content": "代開發票"}]}]
    done = command("check", "--policy", str(SHIPPED), stdin="\n".join(json.dumps(each) for each in asked) + "\n\n")
    lines = [json.loads(line) for line in io.StringIO(done.stdout)]
    assert [line["action"] for line in lines] == ["block", "allow", "block"]
    assert [(each["start"], each["end"]) for each in lines[0]["matches"]] == [(2, 8)]
    assert "block 2 (66.67%)" in done.stderr
    assert "炸" not in done.stdout


def test_check_names_a_line_that_is_none() -> None:
    """And goes on; the status is 2."""
    bad = [b"nonsense", b"[1]", b"{}", b'{"text": 1}', b'{"messages": [{}]}', b"[" * 100_000, b'{"text": "\xff"}']
    lines = b"\n".join([b'{"text": "x"}', *bad, b'{"text": "y"}', b""])
    arguments = [sys.executable, "-m", "gateway", "policy", "check", "--policy", str(SHIPPED)]
    done = subprocess.run(arguments, input=lines, capture_output=True, timeout=60, check=False)
    said = [json.loads(line) for line in done.stdout.splitlines()]
    assert [each["line"] for each in said if "error" in each] == list(range(2, 2 + len(bad)))
    assert (done.returncode, said[-1]["action"]) == (2, "allow")
    assert f"{len(bad)} lines could not be read: expected".encode() in done.stderr


def test_check_reads_what_the_surface_takes() -> None:
    """Several prompts, and contents in parts."""
    parts = [{"type": "text", "text": "hello"}, {"type": "text", "text": "代開發票"}]
    asked = [{"prompt": ["hello", "代開發票"]}, {"messages": [{"role": "user", "content": parts}]}]
    done = command("check", "--policy", str(SHIPPED), stdin="\n".join(map(json.dumps, asked)))
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    assert [line["action"] for line in lines] == ["block", "block"]
    assert lines[0]["matches"][0]["text"] == 1


def test_whoever_reads_may_stop() -> None:
    """Not a word on stderr."""
    line = f"{sys.executable} -m gateway policy check --policy {SHIPPED} | head -1"
    asked = '{"text": "x"}\n' * 20_000
    done = subprocess.run(["sh", "-c", line], input=asked, capture_output=True, text=True, timeout=60, check=False)
    assert (len(done.stdout.splitlines()), "Traceback" in done.stderr, "Error" in done.stderr) == (1, False, False)


def test_lint_makes_the_moderators(tmp_path: Path) -> None:
    """One that could not be made is why the policy would be refused."""
    path = tmp_path / "policy.yaml"
    path.write_text("version: x\nmoderators: [{name: a, kind: python, entry_point: nowhere}]\n", encoding="utf-8")
    done = command("lint", "--policy", str(path))
    assert (done.returncode, "refused: entry_point 'nowhere' must be" in done.stdout) == (1, True)


def test_lint_shows_the_ordinary(tmp_path: Path) -> None:
    """Most ordinary first; 1 for a policy that would be refused."""
    path = tmp_path / "policy.yaml"
    path.write_text(HEAD + "  - {name: a, words: [价格, 炸弹制作, kumquat]}\n", encoding="utf-8")
    done = command("lint", "--policy", str(path))
    assert done.returncode == 1
    assert "a: 3 entries, 1 hit any of" in done.stdout
    assert "line 1: 价格" in done.stdout
    assert "refused: " in done.stdout
    assert command("lint", "--policy", str(SHIPPED)).returncode == 0


def test_the_schema_is_json() -> None:
    """With every field described for whoever writes a policy."""
    schema = json.loads(command("schema").stdout)
    assert schema["properties"].keys() >= {"version", "lists", "patterns", "allow", "tenants", "lint", "mask"}
