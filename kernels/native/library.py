"""The library's functions and structures, as ctypes sees them."""

from __future__ import annotations

import ctypes
import os
from ctypes import POINTER, Structure, c_double, c_float, c_int64, c_void_p
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from kernels.native.build import NativeUnavailable, build, find_prebuilt

_ABI = 3


class Matrix(Structure):
    """A packed weight matrix."""

    _fields_ = [
        ("data", c_void_p),
        ("scale", c_void_p),
        ("bias", c_void_p),
        ("n", c_int64),
        ("k", c_int64),
        ("form", c_int64),
    ]


class Heads(Structure):
    """How many heads of which size."""

    _fields_ = [("num", c_int64), ("num_kv", c_int64), ("dim", c_int64)]


class Arena(Structure):
    """One layer's blocks; strides in floats."""

    _fields_ = [
        ("data", c_void_p),
        ("block", c_int64),
        ("part", c_int64),
        ("head", c_int64),
        ("slot", c_int64),
        ("block_size", c_int64),
    ]


class Chunks(Structure):
    """Which tokens attend to which blocks."""

    _fields_ = [
        ("tables", c_void_p),
        ("table_stride", c_int64),
        ("starts", c_void_p),
        ("contexts", c_void_p),
        ("num", c_int64),
    ]


class Rotary(Structure):
    """The rotation of each token, [T, dim] each."""

    _fields_ = [("cos", c_void_p), ("sin", c_void_p), ("dim", c_int64)]


class Variant(Structure):
    """How a layer departs from plain causal attention; all zero: not at all."""

    _fields_ = [("window", c_int64), ("cap", c_double), ("sinks", c_void_p)]


class Layer(Structure):
    """A layer's weights."""

    _fields_ = [
        ("attention_norm", c_void_p),
        ("qk_norm", c_void_p),
        ("mlp_norm", c_void_p),
        ("qkv", Matrix),
        ("output", Matrix),
        ("gate_up", Matrix),
        ("down", Matrix),
    ]


class Model(Structure):
    """A decoder's weights and sizes."""

    _fields_ = [
        ("layers", POINTER(Layer)),
        ("norm", c_void_p),
        ("embedding", c_void_p),
        ("head", Matrix),
        ("heads", Heads),
        ("num_layers", c_int64),
        ("hidden", c_int64),
        ("inner", c_int64),
        ("eps", c_double),
        ("qk_eps", c_double),
        ("scale", c_double),
    ]


class Batch(Structure):
    """A step's work."""

    _fields_ = [
        ("token_ids", c_void_p),
        ("slot_blocks", c_void_p),
        ("slot_offsets", c_void_p),
        ("rotary", Rotary),
        ("sample_rows", c_void_p),
        ("chunks", Chunks),
        ("num_tokens", c_int64),
        ("num_samples", c_int64),
        ("kv", Arena),
        ("layer_stride", c_int64),
        ("logits", c_void_p),
    ]


_P, _I, _D = c_void_p, c_int64, c_double
_SIGNATURES: dict[str, tuple[Any, ...]] = {
    "baton_rms_norm": (_P, _I, _P, _D, _I, _I, _P, _I),
    "baton_add_rms_norm": (_P, _I, _P, _I, _P, _D, _I, _I, _P, _P, _I),
    "baton_silu_mul": (_P, _I, _I, _I, _P, _I),
    "baton_qk_norm_rope_write": (
        *(_P, _I, _P, _D, POINTER(Rotary), POINTER(Heads), POINTER(Arena)),
        *(_P, _P, _I, _P, _I),
    ),
    "baton_paged_attention": (
        *(_P, POINTER(Heads), POINTER(Arena), POINTER(Chunks), _D, POINTER(Variant), _P, _I),
    ),
    "baton_pack": (_P, _I, _I, _I, _P, _I),
    "baton_linear": (POINTER(Matrix), _P, _I, _I, _P, _I),
    "baton_rows": (POINTER(Matrix), _P, _I, _P, _I),
    "baton_random_words": (_P, _P, _P, _I, _I, _P, _I),
    "baton_argmax": (_P, _I, _I, _I, _P, _I),
    "baton_step": (POINTER(Model), POINTER(Batch), _I),
}


def find() -> ctypes.CDLL:
    """The library, compiled if need be. Raises NativeUnavailable, the same at every call."""
    found = _find()
    if isinstance(found, NativeUnavailable):
        raise found
    return found


def is_available() -> bool:
    """Whether there is a library; compiles it if need be."""
    return not isinstance(_find(), NativeUnavailable)


def forget() -> None:
    """Makes the next call look for the library afresh, for tests."""
    _find.cache_clear()


def num_threads() -> int:
    """Threads for the library: torch's setting, which a worker's `--threads` sets."""
    return torch.get_num_threads()


def arena_of(kv: Tensor) -> Arena:
    """One layer's view of an arena, [num_blocks, 2, num_kv_heads, block_size, head_dim]."""
    block, part, head, slot, _ = kv.stride()
    return Arena(kv.data_ptr(), block, part, head, slot, kv.shape[3])


def is_float_arena(kv: Tensor) -> bool:
    """Whether the library can read it: float32, each head's numbers side by side."""
    return kv.dtype == torch.float32 and (kv.stride(4) == 1 or kv.shape[4] == 1)


@cache
def _find() -> ctypes.CDLL | NativeUnavailable:
    try:
        # An image brings libraries along; it has no compiler.
        prebuilt = os.environ.get("BATON_NATIVE")
        return _load(find_prebuilt(Path(prebuilt)) if prebuilt else build())
    except NativeUnavailable as error:
        return error


def _load(path: Path) -> ctypes.CDLL:
    try:
        library = ctypes.CDLL(str(path))
        abi = library.baton_abi()
    except (OSError, AttributeError) as error:
        raise NativeUnavailable(f"{path} cannot be loaded ({error}); delete it") from error
    if abi != _ABI:
        raise NativeUnavailable(f"{path} is of version {abi}, not {_ABI}; build it anew")
    for name, arguments in _SIGNATURES.items():
        function = getattr(library, name)
        function.argtypes = arguments
        function.restype = None
    library.baton_packed_size.argtypes = (_I, _I)
    library.baton_packed_size.restype = _I
    library.baton_read.argtypes = (_P, _I, _I)
    library.baton_read.restype = c_float
    return library
