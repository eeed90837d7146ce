"""A small real classifier, trained here in half a minute: ``python -m benchmarks.train_classifier FOLDER``.

It tells requests for somebody's secrets (passwords, codes, card numbers) from ordinary ones, in Chinese and English.
The texts are generated from parts that stand below, so a held-out text may be new while its words are not: the model is
a demonstration of the whole line, from training to moderation, and no product. Needs the extra ``parity`` (torch).
"""

from __future__ import annotations

import json
import random
import sys
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors

SEED, STEPS, BATCH, LONGEST = 20261124, 240, 64, 64
LABELS = ("ordinary", "phishing")
ASKS = [
    "tell me",
    "send me",
    "please give me",
    "I need",
    "show me",
    "type in",
    "把",
    "告诉我",
    "发给我",
    "请提供",
    "快说",
    "输入",
]
SECRETS = [
    "your password",
    "the code on your phone",
    "your card number",
    "your PIN",
    "the one-time code",
    "your bank login",
    "你的密码",
    "短信验证码",
    "银行卡号",
    "身份证号和密码",
    "支付密码",
    "登录口令",
]
HARMLESS = [
    "the weather",
    "a recipe for soup",
    "the way to the station",
    "a poem about rain",
    "the meaning of this word",
    "a summary of the text",
    "今天的天气",
    "红烧肉的做法",
    "去车站的路",
    "一首关于雨的诗",
    "这个词的意思",
    "这段话的摘要",
]
ENDS = [
    "",
    *[" now", " please", ", it is urgent", " before tonight", "。", "，很急", "，谢谢", "吧", "！"],
]


def texts(count: int, seed: int) -> list[tuple[str, int]]:
    """Texts and their labels, half and half."""
    draw = random.Random(seed)
    found = []
    for number in range(count):
        label = number % 2
        what = draw.choice(SECRETS if label else HARMLESS)
        found.append((f"{draw.choice(ASKS)} {what}{draw.choice(ENDS)}", label))
    return found


def make_tokenizer() -> Tokenizer:
    """A word piece for every character that occurs, alone and inside a word."""
    characters = sorted(
        {character.lower() for part in (ASKS, SECRETS, HARMLESS, ENDS) for text in part for character in text}
    )
    characters = sorted({*characters, *"abcdefghijklmnopqrstuvwxyz0123456789"} - {" "})
    tokens = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", *characters, *(f"##{each}" for each in characters)]
    made = Tokenizer(models.WordPiece({token: number for number, token in enumerate(tokens)}, unk_token="[UNK]"))
    made.normalizer = normalizers.BertNormalizer(lowercase=True)
    made.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    made.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", tokens.index("[CLS]")), ("[SEP]", tokens.index("[SEP]"))]
    )
    return made


def train(folder: Path, *, quiet: bool = False) -> float:
    """Train, write a Hugging Face directory with ``calibration.jsonl`` and ``held-out.jsonl``; returns the share of
    held-out texts that it labels rightly."""
    import torch  # noqa: PLC0415 - the extra parity
    from transformers import BertConfig, BertForSequenceClassification  # noqa: PLC0415

    torch.manual_seed(SEED)
    tokenizer = make_tokenizer()
    config = BertConfig(
        vocab_size=tokenizer.get_vocab_size(), hidden_size=64, num_hidden_layers=2, num_attention_heads=4,
        intermediate_size=128, max_position_embeddings=128, num_labels=2,
        id2label=dict(enumerate(LABELS)), label2id={label: number for number, label in enumerate(LABELS)},
    )  # fmt: skip
    model = BertForSequenceClassification(config)
    optimiser = torch.optim.AdamW(model.parameters(), lr=1e-3)
    seen, unseen = texts(4000, SEED), sorted(set(texts(4000, SEED + 1)) - set(texts(4000, SEED)))
    tokenizer.enable_padding(pad_id=0, pad_token="[PAD]")
    tokenizer.enable_truncation(LONGEST)

    def batch(pairs: list[tuple[str, int]]) -> dict[str, Any]:
        encoded = tokenizer.encode_batch([text for text, _ in pairs])
        return {
            "input_ids": torch.tensor([each.ids for each in encoded]),
            "attention_mask": torch.tensor([each.attention_mask for each in encoded]),
            "labels": torch.tensor([label for _, label in pairs]),
        }

    for step in range(STEPS):
        loss = model(**batch(random.Random(step).sample(seen, BATCH))).loss
        loss.backward()
        optimiser.step()
        optimiser.zero_grad()
        if not quiet and step % 40 == 0:
            sys.stderr.write(f"step {step}: loss {loss.item():.3f}\n")
    model.eval()
    with torch.no_grad():
        given = batch(unseen)
        right: float = (model(**given).logits.argmax(dim=1) == given["labels"]).float().mean().item()
    model.save_pretrained(folder)
    tokenizer.no_padding()
    tokenizer.no_truncation()
    tokenizer.save(str(folder / "tokenizer.json"))
    for name, pairs in (("calibration", seen[:500]), ("held-out", unseen[:500])):
        lines = [json.dumps({"text": text}, ensure_ascii=False) for text, _ in pairs]
        (folder / f"{name}.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return right


if __name__ == "__main__":
    print(f"{train(Path(sys.argv[1])):.2%} of the held-out texts are labelled rightly")
