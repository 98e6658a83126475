"""The ops as torch custom ops: schemas that tell the truth, and models that compile around them."""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from typing import Any

import pytest
import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode

import kernels
from kernels import torch_ops
from kernels.case import normal
from kernels.sample import PackedRows
from kernels.sample.cases import CASES as SAMPLE_CASES

OPS = ("rms_norm", "add_rms_norm", "silu_mul", "gelu_tanh_mul", "take_rows", "qk_norm_rope_write")


@pytest.fixture(autouse=True)
def _registered() -> None:
    torch_ops.register(kernels.load("cpu", "reference"), "cpu")


def _arguments(op: str, case: str) -> tuple[Any, ...]:
    """A case's arguments, laid flat as the custom op takes them."""
    cases = import_module(f"kernels.{op}.cases").CASES
    arguments = next(each for each in cases if each.name == case).make("cpu")
    if op != "qk_norm_rope_write":
        return arguments
    qkv, norm, rotary, kv, slots = arguments
    weight, eps = (None, 0.0) if norm is None else (norm.weight, norm.eps)
    return qkv, weight, eps, rotary.cos, rotary.sin, kv, slots.blocks, slots.offsets


@pytest.mark.parametrize(
    ("op", "case"),
    [
        *((op, "odd width") for op in OPS[:5]),
        ("rms_norm", "bfloat16"),
        ("add_rms_norm", "strided rows"),
        ("silu_mul", "strided rows"),
        ("qk_norm_rope_write", "two tokens"),
        ("qk_norm_rope_write", "half of a head turns"),
        ("qk_norm_rope_write", "without norm"),
    ],
)
@pytest.mark.filterwarnings("ignore::UserWarning")
def test_schema_and_shapes_are_what_the_op_does(op: str, case: str) -> None:
    tests = ("test_schema", "test_faketensor", "test_aot_dispatch_dynamic")

    torch.library.opcheck(getattr(torch.ops.baton, op), _arguments(op, case), test_utils=tests)


@pytest.mark.parametrize("op", OPS)
def test_op_runs_what_is_registered(op: str) -> None:
    case = "two tokens" if op.startswith("qk") else "odd width"
    cases = import_module(f"kernels.{op}.cases").CASES
    arguments = next(each for each in cases if each.name == case).make("cpu")

    got = getattr(torch.ops.baton, op)(*_arguments(op, case))
    wanted = import_module(f"kernels.{op}.reference").run(*arguments)

    torch.testing.assert_close(got, wanted, rtol=0, atol=0)


def test_a_device_without_kernels_is_named() -> None:
    torch_ops._TABLES.clear()

    with pytest.raises(RuntimeError, match="no kernels for cpu"):
        torch.ops.baton.silu_mul(torch.zeros(1, 2))


def _layer(x: Tensor, residual: Tensor, weight: Tensor, kv: Tensor, facts: Any) -> Tensor:
    """The edges of a layer, without its matrices."""
    cos, sin, blocks, offsets = facts
    x, residual = torch.ops.baton.add_rms_norm(x, residual, weight, 1e-6)
    q = torch.ops.baton.qk_norm_rope_write(x, None, 0.0, cos, sin, kv, blocks, offsets)
    out = torch.ops.baton.silu_mul(q.flatten(1)) + residual[:, :8]
    return torch.ops.baton.take_rows(out, torch.tensor([1, 0]))


def _layer_arguments() -> tuple[Any, ...]:
    x, residual, weight = normal((3, 32), 1), normal((3, 32), 2), normal((32,), 3)
    angles = normal((3, 8), 4)
    kv = torch.zeros(2, 2, 1, 4, 8)
    slots = torch.tensor([0, 1, 1]), torch.tensor([3, 0, 1])
    return x, residual, weight, kv, (angles.cos(), angles.sin(), *slots)


def test_a_model_compiles_around_the_ops() -> None:
    seen: list[str] = []

    def backend(graph: torch.fx.GraphModule, _: Any) -> Callable[..., Any]:
        seen.extend(str(node.target) for node in graph.graph.nodes if node.op == "call_function")
        return graph.forward

    torch.compiler.reset()
    eager, compiled = _layer_arguments(), _layer_arguments()

    got = torch.compile(_layer, backend=backend, fullgraph=True)(*compiled)

    assert torch.equal(got, _layer(*eager))
    assert torch.equal(compiled[3], eager[3])
    assert compiled[3].any(), "nothing was written into the cache"
    assert [name for name in seen if "baton" in name] == [
        "baton.add_rms_norm",
        "baton.qk_norm_rope_write",
        "baton.silu_mul",
        "baton.take_rows",
    ]


def test_draws_are_a_token_per_row() -> None:
    with FakeTensorMode():
        logits, floats, counts = (torch.empty(size, 64) for size in (5, 6, 4))

        token_ids = torch.ops.baton.draw(logits, floats, counts, counts, None, None, None, None)

    assert (token_ids.shape, token_ids.dtype) == ((5,), torch.int64)


@pytest.mark.gpu
def test_a_graph_draws_anew_from_rows_that_changed() -> None:
    if not torch.cuda.is_available():
        pytest.skip("needs an NVIDIA GPU")
    sample = import_module("kernels.sample.cuda")
    logits, rows = SAMPLE_CASES[0].make("cuda")
    packed = sample.pack(rows, logits.shape[1])
    fields = [getattr(packed, name) for name in PackedRows.__dataclass_fields__]
    torch.ops.baton.draw(logits, *fields)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        out = torch.ops.baton.draw(logits, *fields)

    for step in range(5):
        packed.counts[3] = step
        logits.copy_(normal(tuple(logits.shape), seed=step) * 3)
        graph.replay()

        assert torch.equal(out, sample.draw(logits, packed))
