"""Trains Baton's demo model from the documentation of Python: `python train.py --help`."""

from __future__ import annotations

import argparse
import json
import math
import random
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from conversations import chat_texts, plain_texts, sample_documents
from model_folder import model_config, sample, write_folder
from packing import Batch, encode_texts, pack_batches, train_tokenizer
from sources import Document, read_documents
from tokenizers import Tokenizer
from torch.nn.functional import cross_entropy
from tqdm import tqdm
from transformers import Qwen3ForCausalLM

HERE = Path(__file__).parent
DESCRIPTION = """\
Train the demo model from the documentation that Python itself carries.

The text is read from this interpreter's standard library, so nothing is downloaded. A tokenizer is
trained first, then the model; at the end the folder is read back and answers a few questions.
"""
EXAMPLES = """\
examples:
  python train.py                           the full run: about an hour on two cores
  python train.py --steps 300 --out tiny    a quick try: words, but few sentences
  python train.py --show-text               print some training text, train nothing
"""

LossFunction = Callable[[Batch], torch.Tensor]


@dataclass(frozen=True)
class Corpus:
    """Documents for training and documents the model never sees."""

    training: list[Document]
    held_out: list[Document]


@dataclass(frozen=True)
class ValidationLoss:
    """Mean loss on the held-out documents, in nats per token, and bits per byte of their text."""

    plain: float
    chat: float
    bits_per_byte: float


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=DESCRIPTION,
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--out", type=Path, default=HERE, help="model folder to write (this one)")
    parser.add_argument(
        "--steps", type=int, default=7500, help="optimizer steps of 4096 tokens each (7500)"
    )
    parser.add_argument(
        "--minutes", type=float, default=0, help="end the schedule after this long; 0: no limit (0)"
    )
    parser.add_argument(
        "--learning-rate", type=float, default=2e-3, help="peak, after warm-up (2e-3)"
    )
    parser.add_argument(
        "--vocab-size", type=int, default=4096, help="tokens in the vocabulary (4096)"
    )
    parser.add_argument(
        "--seed", type=int, default=2026, help="of weights, order and phrasings (2026)"
    )
    parser.add_argument("--threads", type=int, default=2, help="processor threads (2)")
    parser.add_argument(
        "--export-every", type=int, default=500, help="steps between exports of the folder (500)"
    )
    parser.add_argument(
        "--no-compile",
        action="store_true",
        help="skip torch.compile: slower, needs no C++ compiler",
    )
    parser.add_argument(
        "--start-from", type=Path, help="exported folder to continue from (random weights)"
    )
    parser.add_argument(
        "--well-known", action="store_true", help="train only on what newcomers ask about"
    )
    parser.add_argument("--show-text", action="store_true", help="print training text and stop")
    return parser.parse_args()


def read_corpus(*, only_well_known: bool = False) -> Corpus:
    documents = read_documents()
    training = [document for document in documents if not document.is_held_out]
    return Corpus(
        training=[d for d in training if d.is_well_known or not only_well_known],
        held_out=[document for document in documents if document.is_held_out],
    )


def training_batches(corpus: Corpus, tokenizer: Tokenizer, seed: int) -> Iterator[Batch]:
    """Yield batches without end; every pass over the documents phrases its questions anew."""
    rng = random.Random(seed)
    while True:
        documents = sample_documents(corpus.training, rng)
        chats = encode_texts(tokenizer, chat_texts(documents, rng))
        plains = encode_texts(tokenizer, list(plain_texts(documents)))
        yield from pack_batches(chats, plains, rng)


def build_tokenizer(arguments: argparse.Namespace, corpus: Corpus) -> Tokenizer:
    if arguments.start_from:
        return Tokenizer.from_file(str(arguments.start_from / "tokenizer.json"))
    rng = random.Random(arguments.seed)
    texts = [*plain_texts(corpus.training), *chat_texts(corpus.training, rng)]
    return train_tokenizer(texts, arguments.vocab_size)


def build_model(arguments: argparse.Namespace) -> Qwen3ForCausalLM:
    torch.manual_seed(arguments.seed)
    if arguments.start_from:
        return Qwen3ForCausalLM.from_pretrained(arguments.start_from, dtype=torch.float32)
    return Qwen3ForCausalLM(model_config(arguments.vocab_size))


def build_loss(model: Qwen3ForCausalLM, *, use_compile: bool) -> LossFunction:
    """Return the mean next-token loss of a batch, computed in bfloat16 where that is faster."""

    def loss_of(batch: Batch) -> torch.Tensor:
        with torch.autocast("cpu", torch.bfloat16):
            logits = model(batch, use_cache=False).logits  # [num_rows, row_len, vocab_size]
        return cross_entropy(logits[:, :-1].flatten(0, 1).float(), batch[:, 1:].flatten())

    return torch.compile(loss_of, dynamic=False) if use_compile else loss_of


def build_optimizer(model: Qwen3ForCausalLM, learning_rate: float) -> torch.optim.AdamW:
    # Norm weights are scales around one; decaying them towards zero would only hurt.
    matrices = [p for p in model.parameters() if p.ndim >= 2]
    scales = [p for p in model.parameters() if p.ndim < 2]
    groups = [{"params": matrices, "weight_decay": 0.1}, {"params": scales, "weight_decay": 0.0}]
    return torch.optim.AdamW(groups, lr=learning_rate, betas=(0.9, 0.95), eps=1e-8)


def schedule(progress: float, warm_up: float = 0.03, floor: float = 0.03) -> float:
    """Return the share of the peak learning rate at this progress from 0 to 1."""
    if progress < warm_up:
        return (progress + 0.001) / warm_up
    rest = min(1.0, (progress - warm_up) / (1 - warm_up))
    return floor + (1 - floor) * 0.5 * (1 + math.cos(math.pi * rest))


def validate(model: Qwen3ForCausalLM, corpus: Corpus, tokenizer: Tokenizer) -> ValidationLoss:
    """Measure on documents of modules and topics that no training text was made from."""
    plain = list(plain_texts(corpus.held_out, with_written=False))
    chat = chat_texts(corpus.held_out, random.Random(0), with_written=False)
    plain_ids = encode_texts(tokenizer, plain)
    plain_loss = _mean_loss(model, plain_ids)
    bytes_per_token = sum(len(text.encode()) for text in plain) / sum(map(len, plain_ids))
    return ValidationLoss(
        plain=plain_loss,
        chat=_mean_loss(model, encode_texts(tokenizer, chat)),
        bits_per_byte=plain_loss / math.log(2) / bytes_per_token,
    )


@torch.no_grad()
def _mean_loss(model: Qwen3ForCausalLM, texts: list[list[int]]) -> float:
    """Return the loss per predicted token; each text stands alone, cut into 1024 tokens at most."""
    total, num_tokens = 0.0, 0
    pieces = [ids[start : start + 1024] for ids in texts for start in range(0, len(ids), 1024)]
    ordered = sorted(pieces, key=len)
    for start in range(0, len(ordered), 32):
        rows = ordered[start : start + 32]
        longest = max(len(row) for row in rows)
        ids = torch.tensor([row + [0] * (longest - len(row)) for row in rows])
        targets = torch.tensor([row[1:] + [-100] * (longest - len(row)) for row in rows])
        logits = model(ids, use_cache=False).logits[:, :-1]
        loss = cross_entropy(logits.flatten(0, 1), targets.flatten(), reduction="sum")
        total += loss.item()
        num_tokens += int((targets != -100).sum())
    return total / num_tokens


def train(arguments: argparse.Namespace, corpus: Corpus, tokenizer: Tokenizer) -> Qwen3ForCausalLM:
    """Run the schedule to its end, exporting the folder on the way."""
    model = build_model(arguments)
    loss_of = build_loss(model, use_compile=not arguments.no_compile)
    optimizer = build_optimizer(model, arguments.learning_rate)
    started, num_steps, smooth = time.monotonic(), 0, 0.0
    bar = tqdm(total=arguments.steps, unit="step", mininterval=10, desc="training")
    for batch in training_batches(corpus, tokenizer, arguments.seed):
        minutes = (time.monotonic() - started) / 60
        by_time = minutes / arguments.minutes if arguments.minutes else 0.0
        progress = max(num_steps / arguments.steps, by_time)
        if progress >= 1:
            break
        for group in optimizer.param_groups:
            group["lr"] = arguments.learning_rate * schedule(progress)
        loss = loss_of(batch)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        num_steps += 1
        smooth = loss.item() if num_steps == 1 else 0.98 * smooth + 0.02 * loss.item()
        bar.update()
        bar.set_postfix(loss=f"{smooth:.3f}", refresh=False)
        if num_steps % arguments.export_every == 0:
            write_folder(arguments.out, model, tokenizer)
            bar.write(f"step {num_steps}: {minutes:.1f} min, {validate(model, corpus, tokenizer)}")
    bar.close()
    print(f"trained {num_steps} steps in {(time.monotonic() - started) / 60:.1f} minutes")
    return model


def show_text(corpus: Corpus, seed: int) -> None:
    rng = random.Random(seed)
    for text in rng.sample(list(plain_texts(corpus.training)), 5):
        print(text, "\n" + "-" * 60)
    for text in rng.sample(chat_texts(corpus.training, rng), 10):
        print(text, "-" * 60)


def main() -> None:
    arguments = parse_arguments()
    torch.set_num_threads(arguments.threads)
    corpus = read_corpus(only_well_known=arguments.well_known)
    print(f"{len(corpus.training)} documents to train on, {len(corpus.held_out)} held out")
    if arguments.show_text:
        show_text(corpus, arguments.seed)
        return
    tokenizer = build_tokenizer(arguments, corpus)
    model = train(arguments, corpus, tokenizer)
    write_folder(arguments.out, model, tokenizer)
    print("validation:", validate(model, corpus, tokenizer))
    for prompt, answer in sample(arguments.out):
        print(json.dumps({"prompt": prompt, "answer": answer}, ensure_ascii=False))


if __name__ == "__main__":
    main()
