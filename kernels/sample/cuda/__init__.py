"""Sampling in Triton: one pass over the logits, then one program per row among few candidates.

`draw` leaves the tokens on the device and waits for nothing; `run` brings them to the host.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import triton
from torch import Tensor

from kernels.launch import Launch
from kernels.sample import PackedRows, Sampled, SampleRows
from kernels.sample.cuda import choose, lists, scan
from kernels.sample.cuda.likeliest import NUM_WARPS, likeliest_kernel

_Logprobs = tuple[float, tuple[tuple[int, float], ...]]


def run(logits: Tensor, rows: SampleRows) -> Sampled:
    """See the contract."""
    if not len(logits):
        return Sampled((), ())
    logits = logits if logits.stride(1) == 1 else logits.contiguous()
    token_ids = draw(logits, pack(rows, logits.shape[1]))
    logprobs = _all_logprobs(logits, rows.logprobs_count, token_ids)
    return Sampled(tuple(token_ids.tolist()), logprobs)


def pack(rows: SampleRows, vocab_size: int) -> PackedRows:
    """The rows as kernels take them. Nothing waits for the device."""
    device, num_rows = rows.temperature.device, len(rows.allowed)
    masks = [mask for mask in rows.allowed if mask is not None]
    parts = (rows.prompt_tokens, rows.output_tokens, rows.bias_tokens)
    has_lists = [any(part[row] is not None for part in parts) for row in range(num_rows)]
    places = (_places([mask is not None for mask in rows.allowed]), _places(has_lists))
    floats = (rows.temperature, rows.top_p, rows.min_p)
    penalties = (rows.repetition_penalty, rows.presence_penalty, rows.frequency_penalty)
    return PackedRows(
        torch.stack((*floats, *penalties)),
        torch.stack((rows.top_k, rows.seed, rows.sample_index, rows.output_position)),
        _send(torch.tensor(places, dtype=torch.int32), device),
        torch.stack(masks) if masks else None,
        *(_tables(rows, places[1], vocab_size) if any(has_lists) else (None, None, None)),
    )


def _send(tensor: Tensor, device: torch.device) -> Tensor:
    """A small tensor's copy on the device: only from pinned memory does it surely not wait."""
    if device.type != "cuda":
        return tensor.to(device)
    return tensor.pin_memory().to(device, non_blocking=True)


def _places(has_one: list[bool]) -> list[int]:
    """Numbers in order for rows that have one, -1 for the others."""
    places, count = [], 0
    for has in has_one:
        places.append(count if has else -1)
        count += has
    return places


def _tables(rows: SampleRows, places: list[int], vocab_size: int) -> tuple[Tensor, Tensor, Tensor]:
    device, num_lists = rows.temperature.device, max(places) + 1
    prompt, output, bias = (
        [(place, ids) for place, ids in zip(places, part, strict=True) if ids is not None]
        for part in (rows.prompt_tokens, rows.output_tokens, rows.bias_tokens)
    )
    entries = (*prompt, *output, *bias)
    tokens = torch.cat([ids for _, ids in entries])
    lens = torch.tensor([len(ids) for _, ids in entries])
    of_entries = torch.tensor([place for place, _ in entries]).repeat_interleave(lens)
    at = _send(of_entries, device)
    values = [value for value in rows.bias_values if value is not None]
    values_all = torch.cat(values) if values else torch.empty(0, device=device)
    words = -(-vocab_size // 32)
    listed = torch.zeros(num_lists, words, dtype=torch.int32, device=device)
    occurrences = torch.empty(num_lists, vocab_size, dtype=torch.int32, device=device)
    bias_table = torch.empty(num_lists, vocab_size, dtype=torch.float32, device=device)
    if len(tokens):
        grid = (triton.cdiv(len(tokens), lists.BLOCK),)
        num_prompt, num_output = (sum(len(ids) for _, ids in part) for part in (prompt, output))
        ends = (num_prompt, num_output, len(tokens), vocab_size)
        tables = (occurrences, bias_table)
        lists.clear_kernel[grid](at, tokens, *tables, *ends[2:], BLOCK=lists.BLOCK)
        lists.mark_kernel[grid](at, tokens, values_all, listed, *tables, *ends, BLOCK=lists.BLOCK)
    return listed, occurrences, bias_table


@dataclass(frozen=True, slots=True)
class _Facts:
    """What a scan leaves of R rows of C chunks."""

    numbers: Tensor
    """[3, R, C] float32: maximum, sum of exponentials below it, value of the best with noise."""
    best_ids: Tensor
    """[R, C] int32."""
    groups: Tensor
    """[R, C * COLUMNS] float32: maxima of groups."""

    @classmethod
    def empty(cls, num_rows: int, vocab_size: int, device: torch.device) -> _Facts:
        num_chunks = triton.cdiv(vocab_size, scan.CHUNK)
        return cls(
            torch.empty(3, num_rows, num_chunks, device=device),
            torch.empty(num_rows, num_chunks, dtype=torch.int32, device=device),
            torch.empty(num_rows, num_chunks * scan.COLUMNS, device=device),
        )


def draw(logits: Tensor, rows: PackedRows) -> Tensor:
    """Token ids [S] int64 on the device, for `logits [S, V]` float32 with dense rows; S > 0."""
    num_rows, vocab_size = logits.shape
    if vocab_size == 1:
        # Triton makes a constant of a 1, of which its compiler fails in the second pass.
        return torch.zeros(num_rows, dtype=torch.int64, device=logits.device)
    facts = _Facts.empty(num_rows, vocab_size, logits.device)
    has = {"HAS_MASKS": rows.masks is not None, "HAS_LISTS": rows.listed is not None}
    settings = (rows.floats, rows.counts, rows.places)
    tables = (rows.masks, rows.listed, rows.occurrences, rows.bias)
    _scan(logits, None, (*settings, *tables), facts, has)
    out = torch.empty(num_rows, dtype=torch.int64, device=logits.device)
    num_chunks = facts.best_ids.shape[1]
    choose.choose_kernel[(num_rows,)](
        logits,
        *settings,
        *tables,
        facts.numbers,
        facts.best_ids,
        facts.groups,
        *_candidates(num_rows, vocab_size, facts),
        out,
        logits.stride(0),
        num_rows,
        vocab_size,
        num_chunks,
        **has,
        COLUMNS=scan.COLUMNS,
        CHUNK=scan.CHUNK,
        CHUNKS_BLOCK=triton.next_power_of_2(num_chunks),
        num_warps=choose.NUM_WARPS,
        # Sums and products round one by one, as the reference's do.
        enable_fp_fusion=False,
    )
    return out


def _scan(
    logits: Tensor,
    sources: Tensor | None,
    tensors: tuple[Tensor | None, ...],
    facts: _Facts,
    has: dict[str, bool],
) -> None:
    """Scans rows as they are drawn from, or those named by `sources` as they were given."""
    num_rows, num_chunks = facts.best_ids.shape
    scan.scan_kernel[(num_chunks, num_rows)](
        logits,
        sources,
        *tensors,
        facts.numbers,
        facts.best_ids,
        facts.groups,
        logits.stride(0),
        num_rows,
        logits.shape[1],
        num_chunks,
        RAW=sources is not None,
        **has,
        COLUMNS=scan.COLUMNS,
        LINES=scan.LINES,
        CHUNK=scan.CHUNK,
        num_warps=scan.NUM_WARPS,
        enable_fp_fusion=False,
    )


def _candidates(num_rows: int, vocab_size: int, facts: _Facts) -> tuple[Tensor, Tensor, Tensor]:
    """Room for each row's listed groups and for its candidates' keys and ids."""
    shapes = (facts.groups.shape, (num_rows, vocab_size), (num_rows, vocab_size))
    groups, keys, ids = (
        torch.empty(shape, dtype=torch.int32, device=facts.groups.device) for shape in shapes
    )
    return groups, keys, ids


def _all_logprobs(
    logits: Tensor, counts: Sequence[int | None], token_ids: Tensor
) -> tuple[_Logprobs | None, ...]:
    wanting = {row: count for row, count in enumerate(counts) if count is not None}
    found: list[_Logprobs | None] = [None] * len(counts)
    if not wanting:
        return tuple(found)
    sources = torch.tensor(list(wanting), device=logits.device)
    num_top = min(max(wanting.values()), logits.shape[1])
    drawn, top, ids = (part.tolist() for part in likeliest(logits, sources, token_ids, num_top))
    for place, (row, count) in enumerate(wanting.items()):
        pairs = zip(ids[place][:count], top[place][:count], strict=True)
        found[row] = (drawn[place], tuple(pairs))
    return tuple(found)


def likeliest(
    logits: Tensor, sources: Tensor, token_ids: Tensor, num_top: int
) -> tuple[Tensor, Tensor, Tensor]:
    """Log-probabilities under the logits as given, for the rows `sources` [R] int64.

    Of the token in `token_ids` [S], [R] float32; of the `num_top` likeliest, [R, num_top] float32
    in falling order, and their ids, [R, num_top] int64. On the device, without waiting for it.
    """
    num_rows, vocab_size = len(sources), logits.shape[1]
    facts = _Facts.empty(num_rows, vocab_size, logits.device)
    _scan(logits, sources, (None,) * 7, facts, {"HAS_MASKS": False, "HAS_LISTS": False})
    num_chunks = facts.best_ids.shape[1]
    drawn = torch.empty(num_rows, device=logits.device)
    top = torch.empty(num_rows, num_top, device=logits.device)
    ids = torch.empty(num_rows, num_top, dtype=torch.int64, device=logits.device)
    likeliest_kernel[(num_rows,)](
        logits,
        sources,
        token_ids,
        facts.numbers,
        facts.groups,
        *_candidates(num_rows, vocab_size, facts),
        drawn,
        top,
        ids,
        logits.stride(0),
        num_rows,
        vocab_size,
        num_chunks,
        num_top,
        COLUMNS=scan.COLUMNS,
        CHUNK=scan.CHUNK,
        CHUNKS_BLOCK=triton.next_power_of_2(num_chunks),
        num_warps=NUM_WARPS,
        enable_fp_fusion=False,
    )
    return drawn, top, ids


_POINTERS = {
    "logits_ptr": "*fp32:16",
    "floats_ptr": "*fp32:16",
    "counts_ptr": "*i64:16",
    "places_ptr": "*i32:16",
    "masks_ptr": "*i32:16",
    "listed_ptr": "*i32:16",
    "occurrences_ptr": "*i32:16",
    "bias_ptr": "*fp32:16",
    "facts_ptr": "*fp32:16",
    "best_ids_ptr": "*i32:16",
    "groups_ptr": "*fp32:16",
    "listed_groups_ptr": "*i32:16",
    "keys_ptr": "*i32:16",
    "ids_ptr": "*i32:16",
    "out_ptr": "*i64:16",
    "sources_ptr": "*i64:16",
    "tokens_ptr": "*i64:16",
    "rows_ptr": "*i64:16",
    "values_ptr": "*fp32:16",
    "drawn_ptr": "*fp32:16",
    "logprobs_ptr": "*fp32:16",
    "top_ids_ptr": "*i64:16",
}
_NUMBERS = {
    # Vocabularies of Qwen3 and Llama 3 are multiples of 16, and so are rows then.
    "row_stride": "i32:16",
    "vocab_size": "i32:16",
    **dict.fromkeys(("num_rows", "num_chunks", "num_top"), "i32"),
    **dict.fromkeys(("num_prompt", "num_output", "num_entries"), "i32"),
}


def _launch(name: str, kernel: triton.JITFunction, num_warps: int, **constants: object) -> Launch:
    """A launch for 151,936 tokens, all options or none."""
    known = {**_POINTERS, **_NUMBERS}
    names = [name for name in kernel.arg_names if name not in constants]
    return Launch(
        name,
        kernel,
        {name: known[name] for name in names},
        constants,
        num_warps=num_warps,
        options={"enable_fp_fusion": False},
    )


_SHAPE = {"COLUMNS": scan.COLUMNS, "CHUNK": scan.CHUNK}
_NO_MASKS = {"HAS_MASKS": False, "masks_ptr": None}
_NO_LISTS = {"HAS_LISTS": False, **dict.fromkeys(("listed_ptr", "occurrences_ptr", "bias_ptr"))}
_PLAIN, _ALL = {**_NO_MASKS, **_NO_LISTS}, {"HAS_MASKS": True, "HAS_LISTS": True}
_AS_GIVEN = {"RAW": True, **_PLAIN, **dict.fromkeys(("floats_ptr", "counts_ptr", "places_ptr"))}
_SCAN = {**_SHAPE, "LINES": scan.LINES}
_CHOOSE = {**_SHAPE, "CHUNKS_BLOCK": 16}

LAUNCHES = (
    _launch(
        "scan", scan.scan_kernel, scan.NUM_WARPS, RAW=False, sources_ptr=None, **_PLAIN, **_SCAN
    ),
    _launch(
        "scan with masks and lists",
        scan.scan_kernel,
        scan.NUM_WARPS,
        RAW=False,
        sources_ptr=None,
        **_ALL,
        **_SCAN,
    ),
    _launch("scan as given", scan.scan_kernel, scan.NUM_WARPS, **_AS_GIVEN, **_SCAN),
    _launch("choose", choose.choose_kernel, choose.NUM_WARPS, **_PLAIN, **_CHOOSE),
    _launch(
        "choose with masks and lists", choose.choose_kernel, choose.NUM_WARPS, **_ALL, **_CHOOSE
    ),
    _launch("likeliest", likeliest_kernel, NUM_WARPS, **_CHOOSE),
    _launch("clear", lists.clear_kernel, 4, BLOCK=lists.BLOCK),
    _launch("mark", lists.mark_kernel, 4, BLOCK=lists.BLOCK),
)
