"""The shipped rules: numbers and keys that belong to somebody. Each is bounded and, where the number has one, checked
by its checksum, so that an ordinary number is not taken for it."""

from __future__ import annotations

import string
import unicodedata

from gateway.policy.patterns import Rule, compile_rule

_DIGITS = "".join(chr(code) for code in range(0x110000) if unicodedata.category(chr(code)) == "Nd")
_WORD = string.ascii_letters + string.digits
_ID_WEIGHTS = (7, 9, 10, 5, 8, 4, 2, 1, 6, 3, 7, 9, 10, 5, 8, 4, 2)
_ID_CHECKS = "10X98765432"
_SECRETS = (
    r"sk-[A-Za-z0-9_-]{20,180}",  # OpenAI, Anthropic, DeepSeek and others
    r"(?:AKIA|ASIA)[A-Z0-9]{16}",  # Amazon Web Services
    r"gh[pousr]_[A-Za-z0-9]{36,80}",  # GitHub
    r"glpat-[A-Za-z0-9_-]{20,60}",  # GitLab
    r"xox[abprs]-[A-Za-z0-9-]{10,120}",  # Slack
    r"AIza[A-Za-z0-9_-]{35}",  # Google
    r"hf_[A-Za-z0-9]{30,60}",  # Hugging Face
    r"LTAI[A-Za-z0-9]{12,24}",  # Alibaba Cloud
    r"AKID[A-Za-z0-9]{32}",  # Tencent Cloud
)


def _digits(text: str) -> list[int]:
    return [unicodedata.digit(each) for each in text if each.isdecimal()]


def luhn(text: str) -> bool:
    """ISO/IEC 7812-1: the check digit of card numbers."""
    digits = _digits(text)[::-1]
    doubled = (sum(divmod(2 * digit, 10)) for digit in digits[1::2])
    return len(set(digits)) > 1 and (sum(digits[::2]) + sum(doubled)) % 10 == 0


def resident_id(text: str) -> bool:
    """GB 11643: the check character of a Chinese resident identity number, and a date that exists in its middle."""
    digits = _digits(text[:17])
    month, day = 10 * digits[10] + digits[11], 10 * digits[12] + digits[13]
    if not (1 <= month <= 12 and 1 <= day <= 31):
        return False
    last = unicodedata.normalize("NFKC", text[17]).upper()
    return _ID_CHECKS[sum(weight * digit for weight, digit in zip(_ID_WEIGHTS, digits, strict=True)) % 11] == last


def shipped() -> dict[str, Rule]:
    """The rules by name."""
    rules = (
        compile_rule("cn_id", r"(?<![\dA-Za-z])[1-9１-９]\d{16}[\dXxＸｘ](?![\dA-Za-z])", _DIGITS, resident_id),
        compile_rule("cn_mobile", r"(?<!\d)(?:(?:\+|00)86[ -]?)?[1１][3-9３-９]\d[ -]?\d{4}[ -]?\d{4}(?!\d)",
                     _DIGITS + "+"),
        compile_rule("phone", r"(?<![\d+])\+[1-9]\d{0,2}(?:[ .-]?\(?\d{1,4}\)?){2,4}[ .-]?\d{2,4}(?!\d)", "+"),
        compile_rule("bank_card", r"(?<![\d.])[3-6３-６]\d{3}(?:[ -]?\d{4}){2}[ -]?\d{1,4}(?:[ -]?\d{1,3})?(?!\d)",
                     _DIGITS, luhn),
        compile_rule(
            "email",
            r"(?<![A-Za-z0-9._%+-])[A-Za-z0-9][A-Za-z0-9._%+-]{0,63}@(?:[A-Za-z0-9-]{1,40}\.){1,4}[A-Za-z]{2,24}(?![A-Za-z0-9-])",
            _WORD,
        ),
        compile_rule("api_key", rf"(?<![A-Za-z0-9])(?:{'|'.join(_SECRETS)})(?![A-Za-z0-9_-])", "sAghxLf" + _WORD),
    )  # fmt: skip
    return {rule.name: rule for rule in rules}
