"""Which engine the settings of a worker make, and what its blocks are."""

from __future__ import annotations

from pathlib import Path

import pytest
from checkpoints import make_checkpoint

from baton.engine.types import EngineConfig, SequenceSpec
from baton.request import SamplingParams
from baton.rpc.settings import load
from baton.worker.engines import load_source
from services.decode.settings import DecodeSettings

STEP_TIMES = Path(__file__).resolve().parents[2] / "examples" / "step_times.csv"
EMULATED = ("--engine", "emulated", "--step-times", str(STEP_TIMES))


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> Path:
    return make_checkpoint(tmp_path_factory.mktemp("models") / "tiny", "qwen3")


def source_of(model: Path, *flags: str):
    argv = ["--model", str(model), "--device", "cpu", *flags]
    return load_source(load(DecodeSettings, argv=argv))


def test_kinds_of_engine_never_share_a_block(model: Path) -> None:
    kinds = [(), ("--engine", "echo"), EMULATED]

    layouts = [source_of(model, *flags).layout for flags in kinds]

    assert len({layout.namespace for layout in layouts}) == 3
    assert layouts == [source_of(model, *flags).layout for flags in kinds]


def test_echo_has_the_smallest_blocks_and_emulated_those_of_the_model(model: Path) -> None:
    computing, emulated = source_of(model), source_of(model, *EMULATED)

    assert source_of(model, "--engine", "echo").layout.block_bytes == 128
    assert emulated.layout.block_shape == computing.layout.block_shape
    assert emulated.layout.dtype == "float32"
    assert source_of(model, *EMULATED, "--dtype", "float16").layout.dtype == "float16"


@pytest.mark.parametrize("flags", [("--engine", "echo"), EMULATED])
def test_context_and_special_ids_are_those_of_the_model(model: Path, flags) -> None:
    source = source_of(model, *flags)
    engine = source.make_engine(EngineConfig(num_blocks=8))
    engine.add(SequenceSpec("s", (1, 5, 6), 3, SamplingParams(max_tokens=3)))  # 1 ends sequences

    tokens = [token.token_id for _ in range(3) for token in engine.step().tokens]

    assert tokens == [5, 5, 6]
    assert source.context_len == source_of(model).context_len


@pytest.mark.parametrize("flags", [("--engine", "emulated"), ("--step-times", str(STEP_TIMES))])
def test_step_times_and_emulated_come_together(model: Path, flags, capsys) -> None:
    with pytest.raises(SystemExit):
        source_of(model, *flags)

    assert "--step-times and --engine emulated come together" in capsys.readouterr().err


def test_graphs_and_batch_invariance_exclude_each_other(model: Path, capsys) -> None:
    with pytest.raises(SystemExit):
        source_of(model, "--cuda-graphs", "--batch-invariant")

    assert "--cuda-graphs and --batch-invariant exclude" in capsys.readouterr().err


@pytest.mark.parametrize("flags", [("--engine", "echo"), EMULATED])
def test_only_a_model_looks_ahead(model: Path, flags, capsys) -> None:
    with pytest.raises(SystemExit):
        source_of(model, *flags, "--lookahead", "on")

    assert "--lookahead on needs --engine model" in capsys.readouterr().err


def test_a_batch_invariant_worker_makes_engines(model: Path) -> None:
    engine = source_of(model, "--batch-invariant").make_engine(EngineConfig(num_blocks=8))
    engine.add(SequenceSpec("s", (1, 5, 6), 3, SamplingParams(max_tokens=2, ignore_eos=True)))

    assert len([token for _ in range(3) for token in engine.step().tokens]) == 2
