"""The shipped patterns find what belongs to somebody, exactly there, and leave alone what only looks like it."""

from __future__ import annotations

import pytest

from gateway.policy.patterns import find
from gateway.policy.personal import shipped

RULES = shipped()


@pytest.mark.parametrize(
    ("rule", "text", "found"),
    [
        ("cn_id", "身份证11010519491231002X。", ["11010519491231002X"]),
        ("cn_id", "id 440308199901101512, 11010519491231002x", ["440308199901101512", "11010519491231002x"]),
        ("cn_id", "１１０１０５１９４９１２３１００２Ｘ", ["１１０１０５１９４９１２３１００２Ｘ"]),
        ("cn_mobile", "打13812345678找我", ["13812345678"]),
        ("cn_mobile", "138 1234 5678, 138-1234-5678", ["138 1234 5678", "138-1234-5678"]),
        ("cn_mobile", "+86 13812345678 or 008613812345678", ["+86 13812345678", "008613812345678"]),
        ("cn_mobile", "１３８１２３４５６７８", ["１３８１２３４５６７８"]),
        ("phone", "call +49 30 901820 now", ["+49 30 901820"]),
        ("phone", "+1 (212) 555-0147", ["+1 (212) 555-0147"]),
        ("phone", "+442079460958", ["+442079460958"]),
        ("bank_card", "4111 1111 1111 1111", ["4111 1111 1111 1111"]),
        ("bank_card", "5500-0000-0000-0004 and 378282246310005", ["5500-0000-0000-0004", "378282246310005"]),
        ("bank_card", "卡号6222021234567890128。", ["6222021234567890128"]),
        ("bank_card", "４１１１１１１１１１１１１１１１", ["４１１１１１１１１１１１１１１１"]),
        ("email", "to bob.x+y@mail.example.com.", ["bob.x+y@mail.example.com"]),
        ("email", "邮箱bob@example.cn吗", ["bob@example.cn"]),
        ("api_key", "key sk-abcdefghijklmnopqrstuvwx.", ["sk-abcdefghijklmnopqrstuvwx"]),
        ("api_key", "sk-ant-api03-abcdefghijklmnopqrstuvwx_-A", ["sk-ant-api03-abcdefghijklmnopqrstuvwx_-A"]),
        ("api_key", "AKIAIOSFODNN7EXAMPLE", ["AKIAIOSFODNN7EXAMPLE"]),
        ("api_key", f"ghp_{'a1' * 18}", [f"ghp_{'a1' * 18}"]),
        ("api_key", f"glpat-{'x' * 20}", [f"glpat-{'x' * 20}"]),
        ("api_key", "xoxb-1234567890-abc", ["xoxb-1234567890-abc"]),
        ("api_key", f"AIza{'S' * 35}", [f"AIza{'S' * 35}"]),
        ("api_key", f"hf_{'a' * 34}", [f"hf_{'a' * 34}"]),
        ("api_key", f"LTAI{'5t' * 10}", [f"LTAI{'5t' * 10}"]),
        ("api_key", f"AKID{'z' * 32}", [f"AKID{'z' * 32}"]),
    ],
)
def test_found(rule: str, text: str, found: list[str]) -> None:
    """As people write it."""
    assert [text[hit.start : hit.end] for hit in find([RULES[rule]], text)] == found


@pytest.mark.parametrize(
    ("rule", "text"),
    [
        ("cn_id", "110105194912310021"),  # another check character
        ("cn_id", "110105194913310021"),  # month 13
        ("cn_id", "911010519491231002X"),  # part of a longer number
        ("cn_id", "A11010519491231002X"),
        ("cn_mobile", "12812345678"),  # no such network
        ("cn_mobile", "138123456789"),
        ("cn_mobile", "订单9913812345678"),
        ("phone", "1 + 2 = 3"),
        ("phone", "+0 30 901820"),
        ("phone", "49 30 901820"),  # no plus
        ("bank_card", "4111 1111 1111 1112"),  # another check digit
        ("bank_card", "0000 0000 0000 0000"),
        ("bank_card", "3333 3333 3333 3333"),
        ("bank_card", "0.4111111111111111"),
        ("bank_card", "2026112415300001"),  # a time
        ("email", "bob@localhost"),
        ("email", "@bob and a@b"),
        ("email", "3 @ 5.00"),
        ("api_key", "sk-short"),
        ("api_key", "task-abcdefghijklmnopqrstuvwx"),
        ("api_key", "AKIAIOSFODNN7EXAMPL"),
        ("api_key", "hf_transformers"),
    ],
)
def test_left_alone(rule: str, text: str) -> None:
    """What only looks like it."""
    assert find([RULES[rule]], text) == []


def test_every_pattern_is_here() -> None:
    """A new one gets its examples."""
    tables = [*test_found.pytestmark, *test_left_alone.pytestmark]  # type: ignore[attr-defined]
    assert all({case[0] for case in table.args[1]} == set(RULES) for table in tables)
