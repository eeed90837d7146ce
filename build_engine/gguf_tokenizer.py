"""The tokenizer inside a GGUF file, as a ``tokenizer.json`` of the tokenizers package.

A GGUF file holds the vocabulary and the merges, but names the rule that splits text before merging instead of
describing it. The rules known here are those of the models' own tokenizers, under llama.cpp's names for them.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors

from build_engine.errors import CorruptSource, UnsupportedModel
from build_engine.source import TokenizerFiles

CONTROL_TOKEN, USER_DEFINED_TOKEN = 3, 4
LLAMA3_SPLIT = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
QWEN2_SPLIT = LLAMA3_SPLIT.replace(r"\p{N}{1,3}", r"\p{N}")


def tokenizer_files(path: Path, metadata: Mapping[str, Any]) -> TokenizerFiles:
    """The tokenizer in the ``metadata`` of the file at ``path``. Raises :class:`UnsupportedModel` naming a kind or a
    splitting rule that is unknown, :class:`CorruptSource` naming metadata that is missing or contradicts itself."""
    fields = {
        name.removeprefix("tokenizer."): value for name, value in metadata.items() if name.startswith("tokenizer.")
    }
    if fields.get("ggml.model") != "gpt2":
        kind = fields.get("ggml.model", "(none)")
        raise UnsupportedModel(f"{path}: tokenizer model {kind}; only byte-level BPE (gpt2) can be read")
    for name, kind in (("ggml.tokens", str), ("ggml.token_type", int), ("ggml.merges", str)):
        values = fields.get(name)
        if not isinstance(values, list) or not all(type(value) is kind for value in values):
            raise CorruptSource(f"{path}: metadata tokenizer.{name} is missing, or no list of {kind.__name__}")
    if not isinstance(fields.get("chat_template", ""), str):
        raise CorruptSource(f"{path}: metadata tokenizer.chat_template is no text")
    tokens: list[str] = fields["ggml.tokens"]
    for name in ("bos", "eos", "eot", "eom"):
        number = fields.get(f"ggml.{name}_token_id")
        if number is not None and (type(number) is not int or not 0 <= number < len(tokens)):
            raise CorruptSource(f"{path}: tokenizer.ggml.{name}_token_id {number!r} is not in the vocabulary")
    bos, eos = fields.get("ggml.bos_token_id"), fields.get("ggml.eos_token_id")
    found = (fields.get(f"ggml.{name}_token_id") for name in ("eos", "eot", "eom"))
    ends = {int(number) for number in found if number is not None}
    special = _of_type(path, fields, CONTROL_TOKEN)
    return TokenizerFiles(
        json=json.dumps(json.loads(_tokenizer(path, fields, special).to_str()), ensure_ascii=False),
        bos_token_id=bos,
        bos_token="" if bos is None else tokens[bos],
        eos_token_ids=tuple(sorted(ends)),
        eos_token="" if eos is None else tokens[eos],
        special_tokens=special,
        chat_template=fields.get("chat_template", ""),
    )


def _of_type(path: Path, fields: dict[str, Any], wanted: int) -> tuple[str, ...]:
    tokens, kinds = fields["ggml.tokens"], fields["ggml.token_type"]
    if len(tokens) != len(kinds):
        raise CorruptSource(f"{path}: {len(tokens)} tokens, but {len(kinds)} token types")
    return tuple(token for token, kind in zip(tokens, kinds, strict=True) if kind == wanted)


def _tokenizer(path: Path, fields: dict[str, Any], special: tuple[str, ...]) -> Tokenizer:
    tokens, pre = fields["ggml.tokens"], fields.get("ggml.pre", "")
    vocabulary = {token: number for number, token in enumerate(tokens)}
    llama3 = pre == "llama-bpe"
    model = models.BPE(vocab=vocabulary, merges=_merges(path, fields, vocabulary), ignore_merges=llama3)
    tokenizer = Tokenizer(model)
    if pre == "qwen2":
        tokenizer.normalizer = normalizers.NFC()
    tokenizer.pre_tokenizer = _pre_tokenizer(path, pre)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in special])
    whole = _of_type(path, fields, USER_DEFINED_TOKEN)
    tokenizer.add_tokens([AddedToken(token, special=False, normalized=False) for token in whole])
    bos = fields.get("ggml.bos_token_id")
    if bos is not None and fields.get("ggml.add_bos_token", llama3):
        text = tokens[bos]
        tokenizer.post_processor = processors.TemplateProcessing(f"{text} $A", f"{text} $A $B", [(text, bos)])
    return tokenizer


def _merges(path: Path, fields: dict[str, Any], vocabulary: dict[str, int]) -> list[tuple[str, str]]:
    merges = []
    for merge in fields["ggml.merges"]:
        left, _, right = merge.partition(" ")
        if left not in vocabulary or right not in vocabulary or left + right not in vocabulary:
            raise CorruptSource(f"{path}: the merge {merge!r} is not made of tokens")
        merges.append((left, right))
    return merges


def _pre_tokenizer(path: Path, pre: str) -> pre_tokenizers.PreTokenizer:
    if pre == "smollm":
        digits = pre_tokenizers.Digits(individual_digits=True)
        return pre_tokenizers.Sequence([digits, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)])
    pattern = {"llama-bpe": LLAMA3_SPLIT, "qwen2": QWEN2_SPLIT}.get(pre)
    if pattern is None:
        raise UnsupportedModel(f"{path}: pre-tokenizer {pre or '(none)'}; supported: smollm, llama-bpe, qwen2")
    split = pre_tokenizers.Split(Regex(pattern), "isolated")
    return pre_tokenizers.Sequence([split, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)])
