"""Trains the tokenizer, and packs texts into rows of token ids for training."""

from __future__ import annotations

import random
from collections import deque
from collections.abc import Iterable

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers

END_OF_TEXT, IM_START, IM_END = "<|endoftext|>", "<|im_start|>", "<|im_end|>"
SPECIAL_TOKENS = [END_OF_TEXT, IM_START, IM_END]

ROW_SHAPES = ((16, 256), (8, 512), (4, 1024))
"""Rows and row length of a batch; each holds 4096 tokens, so every step costs about the same."""
ROW_WEIGHTS = (0.6, 0.25, 0.15)
"""Most questions are short; the long rows teach positions that only long prompts reach."""

Batch = torch.Tensor
"""Token ids, [num_rows, row_len]."""


def train_tokenizer(texts: Iterable[str], vocab_size: int) -> Tokenizer:
    """Return a byte-level BPE: it starts from all 256 bytes, so no text is unknown to it."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.post_processor = processors.ByteLevel(trim_offsets=False)
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=SPECIAL_TOKENS,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    return tokenizer


def special_ids(tokenizer: Tokenizer) -> dict[str, int]:
    vocabulary = tokenizer.get_vocab()
    return {token: vocabulary[token] for token in SPECIAL_TOKENS}


def encode_texts(tokenizer: Tokenizer, texts: list[str]) -> list[list[int]]:
    """Return the ids of each text, closed by the end-of-text token."""
    end = special_ids(tokenizer)[END_OF_TEXT]
    return [[*encoding.ids, end] for encoding in tokenizer.encode_batch(texts)]


def pack_batches(
    chats: list[list[int]], plains: list[list[int]], rng: random.Random
) -> list[Batch]:
    """Return the batches of one pass.

    Every row begins where a text begins, as every request does. A conversation that is cut at the
    end of a row is repeated whole in the next; the rest of a plain text becomes a text of its own.
    """
    texts = [(ids, True) for ids in chats] + [(ids, False) for ids in plains]
    rng.shuffle(texts)
    waiting = deque(texts)
    batches: list[Batch] = []
    while True:
        num_rows, row_len = rng.choices(ROW_SHAPES, ROW_WEIGHTS)[0]
        rows = [row for _ in range(num_rows) if (row := _fill_row(waiting, row_len))]
        if len(rows) < num_rows:
            break  # the last, incomplete batch is dropped: the next pass shuffles anew
        batches.append(torch.tensor(rows))
    return batches


def _fill_row(waiting: deque[tuple[list[int], bool]], row_len: int) -> list[int]:
    row: list[int] = []
    while len(row) < row_len:
        if not waiting:
            return []
        ids, is_chat = waiting.popleft()
        room = row_len - len(row)
        row += ids[:room]
        if len(ids) > room and not (is_chat and len(ids) > row_len):
            waiting.appendleft((ids if is_chat else ids[room:], is_chat))
    return row
