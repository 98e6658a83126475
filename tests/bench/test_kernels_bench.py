"""The kernels' benchmark: every op has jobs, torch's compositions agree, tables, one small run."""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from rich.console import Console

import kernels
from bench.failure import BenchFailed
from bench.kernels import peers
from bench.kernels.__main__ import main
from bench.kernels.job import CPU_SIZES, GPU_SIZES, Job, Planned, Setting
from bench.kernels.rates import Rates
from bench.kernels.run import Measured, measure, plan
from bench.kernels.tables import tables
from bench.kernels.timing import Budget, Stopwatch
from bench.options import Run
from bench.progress import Steps

TINY = replace(
    CPU_SIZES,
    hidden=64,
    inner=96,
    num_heads=4,
    num_kv_heads=2,
    head_dim=16,
    num_layers=2,
    vocab_size=500,
    rows=(2, 9),
    contexts=((1, 40), (3, 21)),
    pack_tokens=32,
    experts=(6, 2, 64, 32),
    narrow_experts=(6, 2, 64, 32),
    expert_rows=(1, 5),
    mla=(2, 2, 20),
)
SETTING = Setting("cpu", torch.float32, TINY)
WATCH = Stopwatch("cpu", Budget(0.0, 0.0, 1, 1, flush_bytes=64))
RATES = Rates(10e9, 20e9, 100e9)


def run_all(setting: Setting, jobs: list[Planned]) -> list[Measured]:
    console = Console(quiet=True)
    with Steps(console) as steps:
        return list(measure(Run(True, steps, console), setting, jobs, WATCH, RATES))


@pytest.mark.parametrize("sizes", [CPU_SIZES, GPU_SIZES])
def test_every_op_is_measured(sizes: Any) -> None:
    setting = replace(SETTING, sizes=sizes)

    assert {planned.op for planned in plan(setting, ())} == set(kernels.IMPLEMENTATIONS)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_every_job_agrees_with_torch_and_has_a_floor(dtype: torch.dtype) -> None:
    setting = replace(SETTING, dtype=dtype)

    found = run_all(setting, plan(setting, ()))

    assert all(each.seconds > 0 and each.floor_s > 0 and each.torch_s for each in found)
    assert {each.op for each in found} == set(kernels.IMPLEMENTATIONS)


def test_an_op_that_differs_from_torch_ends_the_run() -> None:
    x = torch.ones(2, 8)

    def make() -> Job:
        return Job((x, torch.ones(8), 1e-6), 64, composed=lambda: x * 1.1)

    with pytest.raises(BenchFailed, match=r"rms_norm 2 x 8 is off torch's composition by"):
        run_all(SETTING, [Planned("rms_norm", "2 x 8", make)])


def test_jobs_are_chosen_by_name() -> None:
    chosen = plan(SETTING, ("rms_norm/9*", "unpack_blocks/*"))

    assert {planned.op for planned in chosen} == {"rms_norm", "unpack_blocks"}
    with pytest.raises(BenchFailed, match="no job matches nothing/"):
        plan(SETTING, ("nothing/*",))


def test_the_floor_is_the_longer_of_moving_and_multiplying() -> None:
    # 40 MB at 20 GB/s are 2 ms; 0.1 GFLOP at 100 GFLOP/s is 1 ms, 1 GFLOP 10 ms.
    assert RATES.floor_s(Job((), 40e6, 0.1e9)) == pytest.approx(2e-3)
    assert RATES.floor_s(Job((), 40e6, 1e9)) == pytest.approx(10e-3)


def test_tables_say_shares_and_ratios_and_have_columns_for_peers() -> None:
    slow = Measured("op", "one", "cpu", 4e-3, 40e6, 0.0, 2e-3, 8e-3, {})
    fast = Measured("op", "two", "cuda", 4e-3, 40e6, 1e6, 2e-3, None, {"FA3": 3e-3})

    table = tables([slow, fast], RATES)[1]

    assert table.columns[-1] == "FA3 us"
    assert table.rows[0] == ("op", "one", "cpu", 4000, 40, 0, 2000, 50, 8000, 2, None)
    assert table.rows[1][-3:] == (None, None, pytest.approx(3000))


def test_peers_get_the_batch_in_their_own_layout(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: dict[str, Any] = {}

    class Wrapper:
        def __init__(self, workspace: Any, layout: str, **rest: Any) -> None:
            calls["layout"] = layout

        def plan(self, *values: Any, **named: Any) -> None:
            calls["plan"] = (values, named)

        def run(self, q: Any, blocks: Any) -> str:
            calls["blocks"] = blocks.shape
            return "flashinfer ran"

    def fa3(q: Any, keys: Any, values: Any, **named: Any) -> str:
        calls["keys"] = keys.shape
        return "fa3 ran"

    modules = {
        "flashinfer": SimpleNamespace(
            BatchDecodeWithPagedKVCacheWrapper=Wrapper, BatchPrefillWithPagedKVCacheWrapper=Wrapper
        ),
        "vllm": SimpleNamespace(),
        "vllm.vllm_flash_attn": SimpleNamespace(flash_attn_varlen_func=fa3),
    }
    for name, module in modules.items():
        monkeypatch.setitem(sys.modules, name, module)
    monkeypatch.setattr(peers, "_WORKSPACE_BYTES", 64)
    (decode,) = plan(SETTING, ("paged_attention/decode 3 *",))
    q, kv, batch, scale = decode.make().arguments

    made = peers.attention(q, kv, batch, scale)

    assert made["FlashInfer"]() == "flashinfer ran"
    assert made["FA3"]() == "fa3 ran"
    starts, blocks, last, *sizes = calls["plan"][0]
    assert starts.tolist() == [0, 2, 4, 6]
    assert blocks.tolist() == batch.block_tables.flatten().tolist()
    assert last.tolist() == [5, 5, 5]
    assert sizes == [4, 2, 16, 16]
    assert calls["layout"] == "HND"
    assert calls["blocks"] == (6, 2, 2, 16, 16)
    assert calls["keys"] == (6, 16, 2, 16)


def test_a_partial_run_is_written_beside_whole_ones(
    tmp_path: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    main(device="cpu", only=["rms_norm/8 *"], quick=True, out=tmp_path)

    assert "% of floor" in capsys.readouterr().out
    written = json.loads((tmp_path / "kernels-cpu-part-quick.json").read_text())
    ops = written["parts"][0]["tables"][1]
    assert ops["rows"][0][:2] == ["rms_norm", "8 x 1024"]
    assert (tmp_path / "kernels-cpu-part-quick.md").read_text().startswith("# Kernels\n")


@pytest.mark.gpu
def test_a_small_run_on_a_gpu(tmp_path: Any) -> None:
    if not torch.cuda.is_available():
        pytest.skip("needs an NVIDIA GPU")

    main(device="cuda", only=["rms_norm/*", "pack_blocks/*"], quick=True, out=tmp_path)

    assert (tmp_path / "kernels-cuda-part-quick.json").exists()
