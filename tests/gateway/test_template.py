"""The chat template is the model author's code: it is rendered in a sandbox, and what users write stays text."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.errors import InvalidField, InvalidRequest
from gateway.template import render, without_special_tokens

USER = [{"role": "user", "content": "hi"}]
SPECIAL = ("<|im_start|>", "<|im_end|>", "</s>")


@pytest.mark.parametrize(
    "template",
    [
        "{{ ''.__class__.__mro__[1].__subclasses__() }}",
        "{{ messages.__init__.__globals__ }}",
        "{{ cycler.__init__.__globals__.os.system('true') }}",
        "{{ messages.append(1) }}",
        "{{ messages[0].update({'role': 'system'}) }}",
        "{% include '/etc/passwd' %}",
        "{% for i in range(10**9) %}x{% endfor %}",
        "{{ undefined_function() }}",
        "{{ 1 // 0 }}",
        "{% if %}",
    ],
)
def test_a_template_cannot_reach_out_or_crash(template: str) -> None:
    """A refusal that names the field; nothing of the machine in it."""
    with pytest.raises(InvalidRequest) as refused:
        render(template, USER, "", "")
    assert refused.value.field == "messages"
    assert "root:" not in refused.value.message


def test_a_template_that_refuses_says_why() -> None:
    """raise_exception is how model authors state their rules."""
    with pytest.raises(InvalidField, match="roles must alternate"):
        render("{{ raise_exception('roles must alternate') }}", USER, "", "")


def test_a_model_without_a_template_takes_text_only() -> None:
    """And says so."""
    with pytest.raises(InvalidRequest, match="send text_input"):
        render("", USER, "", "")


def test_what_templates_use_is_there() -> None:
    """Trimmed blocks, loop controls, tojson without escapes, a date."""
    template = (
        "{{ bos_token }}{% for m in messages %}\n{% if m.role == 'tool' %}{% continue %}{% endif %}"
        "{{ m | tojson }}{{ eos_token }}{% endfor %}{{ strftime_now('%Y') | length }}"
    )
    messages = [{"role": "tool", "content": ""}, {"role": "user", "content": "<你好>"}]
    assert render(template, messages, "<s>", "</s>") == '<s>{"role": "user", "content": "<你好>"}</s>4'


@given(
    st.lists(st.sampled_from([*SPECIAL, "<|im_", "start|>", "<|", "im_end", "|>", "a", "</", "s>", "\n"]), max_size=30)
)
def test_no_way_of_writing_brings_a_special_token_back(parts: list[str]) -> None:
    """Also not one token hidden inside another; and whoever writes none keeps every letter."""
    text = "".join(parts)
    clean = without_special_tokens(text, SPECIAL)
    assert not any(token in clean for token in SPECIAL)
    if not any(token in text for token in SPECIAL):
        assert clean == text
