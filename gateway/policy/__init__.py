"""What may be asked and what may be answered."""

from gateway.policy.wordlist import PolicyError, Verdict, WordPolicy, fold, load_words

__all__ = ["PolicyError", "Verdict", "WordPolicy", "fold", "load_words"]
