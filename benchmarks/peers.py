"""A peer's word filter in an environment of its own: reads words and prompts, then times itself when it is told to.

Run by :mod:`benchmarks.policy` as ``python peers.py KIND FILE``. It imports nothing of ours.
"""

import importlib.util
import json
import logging
import sys
import time
import types

WARM = 100


def gorget(words):
    """Its BanSubstrings scanner, loaded past the package's own start, which wants torch; logging is off."""
    for name in ("gorget.input_scanners", "gorget"):
        sys.modules.pop(name, None)  # ours, of the call before
    root = importlib.util.find_spec("gorget").submodule_search_locations[0]
    for name, folder in (("gorget", root), ("gorget.input_scanners", f"{root}/input_scanners")):
        package = types.ModuleType(name)
        package.__path__ = [folder]
        sys.modules[name] = package
    from gorget.input_scanners import ban_substrings

    ban_substrings.LOGGER = types.SimpleNamespace(
        warning=lambda *a, **k: None, debug=lambda *a, **k: None, info=lambda *a, **k: None
    )
    scanner = ban_substrings.BanSubstrings(words, match_type=ban_substrings.MatchType.STR, case_sensitive=False)
    return scanner.scan


def litellm(words):
    """The content filter's check of one text."""
    from litellm.proxy.guardrails.guardrail_hooks.litellm_content_filter import content_filter

    logging.disable(logging.CRITICAL)
    blocked = [{"keyword": word, "action": "MASK"} for word in words]
    return content_filter.ContentFilterGuardrail(guardrail_name="bench", blocked_words=blocked)._filter_single_text


def better_profanity(words):
    """Its ``contains_profanity``."""
    from better_profanity import profanity

    profanity.load_censor_words(words)
    return profanity.contains_profanity


def pyahocorasick(words):
    """A plain automaton over lower case: no fold, no boundary, no stream."""
    import ahocorasick

    automaton = ahocorasick.Automaton()
    for word in words:
        automaton.add_word(word.lower(), word)
    automaton.make_automaton()
    return lambda text: list(automaton.iter(text.lower()))


def daachorse(words):
    """Another one, the one that our rough search uses."""
    import daachorse as library

    automaton = library.CharwiseDoubleArrayAhoCorasick([word.lower() for word in words])
    return lambda text: automaton.find_overlapping(text.lower())


def found(kind, answer):
    """Whether a peer's answer says that there is a word."""
    return not answer[1] if kind == "gorget" else bool(answer)


def recall(kind, cases):
    """Print how many texts a filter of the one word in question finds it in."""
    total, current, check = 0, None, None
    for word, text in sorted(cases):
        if word != current:
            current, check = word, globals()[kind]([word])
        total += found(kind, check(text))
    print(total, flush=True)


def main():
    """Answer each line on stdin, a number of prompts, with the microseconds that one took."""
    kind, file = sys.argv[1:]
    with open(file, encoding="utf-8") as stream:
        content = json.load(stream)
    if "cases" in content:
        recall(kind, content["cases"])
        return
    check = globals()[kind](content["words"])
    prompts = content["prompts"]
    check(prompts[0])
    print("ready", flush=True)
    place = 0
    for line in sys.stdin:
        count = int(line)
        chosen = [prompts[(place + index) % len(prompts)] for index in range(count)]
        place += count
        for prompt in chosen if count > WARM else ():  # a short turn would measure how it woke up
            check(prompt)
        began = time.process_time()
        for prompt in chosen:
            check(prompt)
        print((time.process_time() - began) / count * 1e6, flush=True)


if __name__ == "__main__":
    main()
