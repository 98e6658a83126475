"""What narrower weights cost: probabilities of the demo model's next tokens against float32."""

from __future__ import annotations

import pydoc_data.topics
from dataclasses import dataclass

import torch
from tokenizers import Tokenizer
from torch import Tensor

import kernels
from baton.cli.topology import DEMO_MODEL
from baton.engine.model.batch import Batch
from baton.engine.model.weights import LoadedModel, load_model

_NUM_TOKENS = 512
_BLOCK_SIZE = 16
FORMS = ("bfloat16", "int8")


@dataclass(frozen=True, slots=True)
class WeightError:
    """How far a form of weights moves the distribution of next tokens."""

    form: str
    mean_divergence: float
    """Kullback-Leibler divergence from float32's, nats."""
    worst_divergence: float
    same_choice: float
    """Share of positions where the likeliest token is float32's."""
    loss: float
    """Mean negative log-probability of the text's own tokens, nats."""


def measure_errors() -> list[WeightError]:
    """Of float32 itself first. Raises ModelError without native kernels."""
    ops = kernels.load("cpu")
    ids = _text_ids()
    exact = _logprobs(load_model(DEMO_MODEL, "cpu", "float32", ops, weights="float32"), ids)
    found = [_error("float32", exact, exact, ids)]
    for form in FORMS:
        model = load_model(DEMO_MODEL, "cpu", "float32", ops, weights=form)
        found.append(_error(form, exact, _logprobs(model, ids), ids))
    return found


def _error(form: str, exact: Tensor, coarse: Tensor, ids: list[int]) -> WeightError:
    divergence = (exact.exp() * (exact - coarse)).sum(-1)
    following = torch.tensor(ids[1:])
    loss = -coarse[:-1].gather(1, following[:, None]).mean()
    same = (exact.argmax(-1) == coarse.argmax(-1)).double().mean()
    return WeightError(
        form, divergence.mean().item(), divergence.max().item(), same.item(), loss.item()
    )


def _text_ids() -> list[int]:
    """Documentation that Python itself carries: of the kind that the model was trained on."""
    text = "\n".join(pydoc_data.topics.topics[name] for name in ("for", "with", "class"))
    tokenizer = Tokenizer.from_file(str(DEMO_MODEL / "tokenizer.json"))
    return list(tokenizer.encode(text).ids)[:_NUM_TOKENS]


def _logprobs(model: LoadedModel, ids: list[int]) -> Tensor:
    """[tokens, vocab] float64."""
    config, count = model.config, len(ids)
    blocks = -(-count // _BLOCK_SIZE)
    shape = (config.num_layers, 2, config.num_kv_heads, _BLOCK_SIZE, config.head_dim)
    positions = torch.arange(count)
    batch = Batch(
        token_ids=torch.tensor(ids),
        positions=positions,
        slot_blocks=positions // _BLOCK_SIZE,
        slot_offsets=positions % _BLOCK_SIZE,
        block_tables=torch.arange(blocks, dtype=torch.int32)[None],
        query_start=torch.tensor([0, count], dtype=torch.int32),
        context_lens=torch.tensor([count], dtype=torch.int32),
        sample_rows=positions,
        query_lens=(count,),
        host_context_lens=(count,),
    )
    logits = model.transformer.forward(batch, torch.zeros(blocks, *shape))
    return logits.double().log_softmax(-1)
