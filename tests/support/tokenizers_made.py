"""Small model folders for tests: the textual files of a model, its tokeniser made on the spot."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from tokenizers import (
    AddedToken,
    Tokenizer,
    decoders,
    models,
    normalizers,
    pre_tokenizers,
    trainers,
)
from tokenizers.processors import TemplateProcessing

CORPUS = [
    "The quick brown fox jumps over the lazy dog. Hello world, hello there!",
    "Prefill computes the prompt, decode draws the answer; the baton is passed on.",
    "Größe, naïve café, 你好世界, こんにちは, привет мир, 😀 🚀 👩‍👩‍👧‍👦",
    "  two spaces   and three\n\nnew lines\tand a tab",
] * 4

CHAT_TEMPLATE = (
    "{% for message in messages %}"
    "{{ '<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>' + '\\n' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)


def byte_level_tokenizer(vocab_size: int = 400) -> Tokenizer:
    """As in Llama 3 and Qwen: bytes are characters, merged by BPE; special tokens at the end."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(CORPUS, trainer)
    tokenizer.add_special_tokens(["<|endoftext|>", "<|im_start|>", "<|im_end|>"])
    tokenizer.add_tokens([AddedToken("<think>", special=False)])
    return tokenizer


def metaspace_tokenizer(prefix_stripping: str = "strip") -> Tokenizer:
    """As in Llama 2 and Mistral: `▁` for spaces, rare characters as byte tokens, `<s>` in front."""
    special = ["<unk>", "<s>", "</s>"]
    byte_tokens = [f"<0x{byte:02X}>" for byte in range(256)]
    words = ["▁", "▁hello", "▁world", "hello", "wor", "ld", "▁▁", "é"]
    letters = [chr(code) for code in range(0x20, 0x7F)]
    vocab = {
        token: index
        for index, token in enumerate(dict.fromkeys([*special, *byte_tokens, *letters, *words]))
    }
    tokenizer = Tokenizer(
        models.BPE(vocab=vocab, merges=[], unk_token="<unk>", byte_fallback=True, fuse_unk=True)
    )
    tokenizer.normalizer = normalizers.Sequence(
        [normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")]
    )
    if prefix_stripping == "strip":
        steps = [
            decoders.Replace("▁", " "),
            decoders.ByteFallback(),
            decoders.Fuse(),
            decoders.Strip(" ", 1, 0),
        ]
    else:
        steps = [decoders.ByteFallback(), decoders.Metaspace(), decoders.Fuse()]
    tokenizer.decoder = decoders.Sequence(steps)
    tokenizer.add_special_tokens(special)
    tokenizer.post_processor = TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    return tokenizer


def write_folder(folder: Path, tokenizer: Tokenizer, **changes: dict[str, Any] | None) -> Path:
    """Writes a folder that `load_text` reads.

    `config=`, `generation_config=` and `tokenizer_config=` add to a file; None leaves it out.
    """
    folder.mkdir(parents=True, exist_ok=True)
    eos = tokenizer.token_to_id("<|im_end|>") or tokenizer.token_to_id("</s>")
    contents: dict[str, dict[str, Any]] = {
        "config": {
            "vocab_size": tokenizer.get_vocab_size(),
            "max_position_embeddings": 256,
            "eos_token_id": eos,
        },
        "generation_config": {"eos_token_id": [eos]},
        "tokenizer_config": {"chat_template": CHAT_TEMPLATE},
    }
    tokenizer.save(str(folder / "tokenizer.json"))
    for name, content in contents.items():
        change = changes.get(name, {})
        if change is not None:
            (folder / f"{name}.json").write_text(json.dumps({**content, **change}))
    return folder
