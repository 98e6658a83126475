"""Any history of calls: one end each, the right tokens, no block lost, none written by two."""

from __future__ import annotations

from fake_model import (
    Collected,
    expected,
    holds_kv,
    make_engine,
    spec_of,
    write_kv,
)
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from baton.blocks import BlockKey
from baton.engine.types import BlockEventKind, NewToken, Progress, Reserved, SequenceSpec
from baton.request import FinishReason, SamplingParams

CONTEXT_LEN = 40
BASES = [[2 + (salt * 17 + i * 13 + i * i) % 60 for i in range(30)] for salt in range(2)]

SAMPLINGS = st.builds(
    SamplingParams,
    temperature=st.sampled_from([0.0, 1.0]),
    max_tokens=st.integers(1, 14),
    min_tokens=st.integers(0, 3),
    ignore_eos=st.booleans(),
    seed=st.integers(0, 3),
    stop_token_ids=st.sampled_from([(), (5, 9)]),
    presence_penalty=st.sampled_from([0.0, 0.0, 1.5]),
)
PROMPTS = st.builds(
    lambda base, length, tail: [*BASES[base][:length], *tail],
    st.integers(0, 1),
    st.integers(0, 21),
    st.lists(st.integers(2, 63), min_size=1, max_size=2),
)


class EngineMachine(RuleBasedStateMachine):
    """Plays all of an engine's callers at once."""

    @initialize(
        num_blocks=st.integers(6, 14),
        max_batch_tokens=st.sampled_from([1, 3, 8, 64]),
        max_sequences=st.sampled_from([1, 2, 16]),
        looks_ahead=st.booleans(),
    )
    def build(
        self, num_blocks: int, max_batch_tokens: int, max_sequences: int, looks_ahead: bool
    ) -> None:
        self.engine = make_engine(
            looks_ahead=looks_ahead,
            num_blocks=num_blocks,
            max_batch_tokens=max_batch_tokens,
            max_sequences=max_sequences,
            context_len=CONTEXT_LEN,
        )
        self.collected = Collected()
        self.specs: dict[str, SequenceSpec] = {}
        self.receiving: dict[str, Reserved] = {}
        self.late: dict[str, Reserved] = {}  # cancelled while receiving, not released
        self.kept: dict[str, Progress] = {}  # ended prefills, not released
        self.progress: dict[str, Progress] = {}
        self.cancelled: set[str] = set()
        self.first_tokens: dict[str, int] = {}
        self.pins: list[BlockKey] = []
        self.replayed: set[BlockKey] = set()

    @rule(
        token_ids=PROMPTS,
        sampling=SAMPLINGS,
        priority=st.integers(-1, 1),
        kind=st.sampled_from(["plain", "plain", "plain", "receive", "prefill", "child", "moved"]),
        pick=st.integers(0),
    )
    def add(
        self, token_ids: list[int], sampling: SamplingParams, priority: int, kind: str, pick: int
    ) -> None:
        name = f"s{len(self.specs)}"
        rest: dict[str, object] = {"priority": priority}
        if kind == "receive":
            rest["receive"] = True
        elif kind == "prefill":
            rest["prefill_only"] = True
        elif kind == "child" and self.specs:
            parent = self.specs[f"s{pick % len(self.specs)}"]
            token_ids = list(parent.token_ids)
            rest |= {"after": parent.sequence_id, "sample_index": 1, "receive": pick % 3 == 0}
        elif kind == "moved":
            rest["prompt_len"] = max(1, len(token_ids) - 2)
        spec = spec_of(name, token_ids, sampling, **rest)
        if self.engine.layout.num_blocks(len(token_ids)) <= self.engine.config.num_blocks:
            self.engine.add(spec)
            self.specs[name] = spec

    @rule()
    def step(self) -> None:
        if self.engine.has_work:
            self._step()

    @rule(count=st.integers(2, 12))
    def steps(self, count: int) -> None:
        for _ in range(count):
            self.step()

    def _step(self) -> None:
        output = self.collected.take(self.engine.step())
        for reserved in output.reserved:
            spec = self.specs[reserved.sequence_id]
            cached = reserved.num_cached_tokens
            assert cached < len(spec.token_ids)
            assert holds_kv(self.engine.arena, reserved.block_ids, spec.token_ids[:cached])
            self.receiving[reserved.sequence_id] = reserved
        for progress in output.progress:
            self._check_progress(progress)
        for end in output.finished:
            name = end.sequence_id
            is_kept = self.specs[name].prefill_only and end.reason is FinishReason.LENGTH
            if is_kept and name in self.progress:
                self.kept[name] = self.progress[name]
        for event in output.block_events:
            if event.kind is BlockEventKind.STORED:
                assert not self.replayed & set(event.keys)
                self.replayed.update(event.keys)
            else:
                assert self.replayed >= set(event.keys)
                self.replayed.difference_update(event.keys)
        assert output.load.num_used_blocks == self.engine.num_used_blocks

    def _check_progress(self, progress: Progress) -> None:
        name = progress.sequence_id
        tokens = self.specs[name].token_ids[: progress.num_computed]
        assert holds_kv(self.engine.arena, progress.block_ids, tokens)
        if name in self.progress:
            before = self.progress[name]
            full = before.num_computed // self.engine.layout.block_size
            assert progress.num_computed > before.num_computed
            assert progress.block_ids[:full] == before.block_ids[:full]
        self.progress[name] = progress

    @precondition(lambda self: self.receiving)
    @rule(pick=st.integers(0), arrived=st.integers(0, 30), with_token=st.booleans())
    def resume(self, pick: int, arrived: int, with_token: bool) -> None:
        name = sorted(self.receiving)[pick % len(self.receiving)]
        reserved, spec = self.receiving.pop(name), self.specs[name]
        cached, known = reserved.num_cached_tokens, len(spec.token_ids)
        num_computed = known if with_token else max(cached, min(arrived, known))
        tokens = spec.token_ids[:num_computed]
        write_kv(self.engine.arena, reserved.block_ids, tokens, start=cached)
        token = NewToken(name, expected(spec, CONTEXT_LEN)[0][0]) if with_token else None
        self.engine.resume(name, num_computed, token)

    @precondition(lambda self: self.specs)
    @rule(pick=st.integers(0))
    def cancel(self, pick: int) -> None:
        name = f"s{pick % len(self.specs)}"
        self.engine.cancel(name)
        self.cancelled.add(name)
        if name in self.receiving:
            self.late[name] = self.receiving.pop(name)

    @precondition(lambda self: self.late)
    @rule(pick=st.integers(0))
    def write_late_bytes(self, pick: int) -> None:
        reserved = self.late[sorted(self.late)[pick % len(self.late)]]
        first = reserved.num_cached_tokens // self.engine.layout.block_size
        for block in reserved.block_ids[first:]:
            self.engine.arena.tensor[block] = 999.0

    @precondition(lambda self: self.late or self.kept)
    @rule(pick=st.integers(0))
    def release(self, pick: int) -> None:
        names = sorted([*self.late, *self.kept])
        name = names[pick % len(names)]
        if name in self.kept:
            blocks = self.kept.pop(name).block_ids
            assert holds_kv(self.engine.arena, blocks, self.specs[name].token_ids)
        self.late.pop(name, None)
        self.engine.release(name)

    @rule(pick=st.integers(0), count=st.integers(1, 3))
    def pin(self, pick: int, count: int) -> None:
        keys = self.engine.cached_keys()
        if keys and len(self.pins) < 3:
            start = pick % len(keys)
            self.pins += [key for key, _ in self.engine.pin(keys[start : start + count])]

    @precondition(lambda self: self.pins)
    @rule()
    def unpin(self) -> None:
        self.engine.unpin(self.pins)
        self.pins = []

    @invariant()
    def blocks_add_up(self) -> None:
        if hasattr(self, "engine"):
            total = self.engine.num_free_blocks + self.engine.num_used_blocks
            assert total <= self.engine.config.num_blocks
            assert total == self.engine.config.num_blocks or self.pins

    def teardown(self) -> None:
        if not hasattr(self, "engine"):
            return
        self._let_everything_end()
        assert self.engine.num_sequences == 0
        assert (self.engine.num_used_blocks, self.engine.num_free_blocks) == (
            0,
            self.engine.config.num_blocks,
        )
        assert self.replayed == set(self.engine.cached_keys())
        ends = self.collected.ends()
        assert set(ends) == set(self.specs)
        for name, spec in self.specs.items():
            self._check_end(spec, ends[name].reason)

    def _let_everything_end(self) -> None:
        self.unpin()
        for _ in range(3000):
            while self.receiving:
                self.resume(0, 0, False)
            while self.late or self.kept:
                self.release(0)
            if not self.engine.has_work:
                return
            self._step()
        raise AssertionError("the engine did not come to rest")

    def _check_end(self, spec: SequenceSpec, reason: FinishReason) -> None:
        drawn = self.collected.tokens(spec.sequence_id)
        tokens, right_reason = expected(spec, CONTEXT_LEN)
        if spec.sequence_id in self.cancelled and reason is FinishReason.CANCELLED:
            assert drawn == tokens[: len(drawn)]
        elif reason is FinishReason.ERROR:
            assert drawn == tokens[: len(drawn)]
            known = len(spec.token_ids) + len(drawn)
            assert self.engine.layout.num_blocks(known) > self.engine.config.num_blocks
        else:
            assert (drawn, reason) == (tokens, right_reason)


EngineMachine.TestCase.settings = settings(
    max_examples=120,
    stateful_step_count=40,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much],
)
TestEngineMachine = EngineMachine.TestCase
