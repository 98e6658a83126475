"""The C++ library: packed matrices, threads, and how it is built."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from kernels import native
from kernels.native.build import NativeUnavailable, build
from kernels.native.library import forget
from kernels.native.packed import FORMS, PackedMatrix, quantise

pytestmark = pytest.mark.skipif(not native.is_available(), reason="needs a C++ compiler")


@pytest.fixture(params=[1, 2, 5])
def _num_threads(request: pytest.FixtureRequest) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(request.param)
    yield
    torch.set_num_threads(before)


def _normal(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def _held(weight: torch.Tensor, form: str) -> torch.Tensor:
    """The weights that a form stands for, in float64."""
    if form == "int8":
        whole, scale = quantise(weight)
        return whole.double() * scale.double()[:, None]
    return weight.to(getattr(torch, form)).double()


@pytest.mark.usefixtures("_num_threads")
@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("num_rows", [0, 1, 2, 3, 6, 7, 8, 12, 13, 64, 193, 400])
def test_products_are_right_for_any_number_of_rows(form: str, num_rows: int) -> None:
    weight, bias, x = _normal(130, 801, seed=1), _normal(130, seed=2), _normal(num_rows, 801)

    y = PackedMatrix(weight, bias, form)(x)  # type: ignore[arg-type]

    expected = x.double() @ _held(weight, form).T + bias.double()
    torch.testing.assert_close(y.double(), expected, atol=2e-4, rtol=1e-5)


@settings(deadline=None, max_examples=60)
@given(
    sizes=st.tuples(st.integers(1, 40), st.integers(1, 70), st.integers(1, 900)),
    form=st.sampled_from(FORMS),
    seed=st.integers(0, 99),
)
def test_a_row_alone_equals_the_row_in_a_batch(
    sizes: tuple[int, int, int], form: str, seed: int
) -> None:
    num_rows, n, k = sizes
    matrix = PackedMatrix(_normal(n, k, seed=seed), None, form)  # type: ignore[arg-type]
    x = _normal(num_rows, k, seed=seed + 1)

    together = matrix(x)

    assert torch.equal(together, torch.cat([matrix(row[None]) for row in x]))
    assert torch.equal(matrix(torch.cat((x,) * 9)), torch.cat((together,) * 9))


@pytest.mark.parametrize("form", FORMS)
def test_rows_of_the_matrix_come_back(form: str) -> None:
    weight = _normal(50, 96)

    rows = PackedMatrix(weight, None, form).rows(torch.tensor([49, 0, 17, 49]))  # type: ignore[arg-type]

    torch.testing.assert_close(rows.double(), _held(weight, form)[[49, 0, 17, 49]])


def test_int8_keeps_rows_of_zeros_and_outliers() -> None:
    weight = torch.stack((torch.zeros(8), torch.full((8,), 1e-30), _normal(8) * 1e20))

    whole, scale = quantise(weight)

    error = (whole * scale[:, None] - weight).abs().amax(1)
    assert (error <= weight.abs().amax(1) / 254 * 1.001).all()


def test_strided_rows_and_odd_widths() -> None:
    weight, x = _normal(17, 33), _normal(20, 66)

    y = PackedMatrix(weight, None, "float32")(x[::2, 5:38])

    torch.testing.assert_close(y, x[::2, 5:38] @ weight.T, atol=1e-5, rtol=1e-5)


def test_calls_of_several_threads_follow_each_other() -> None:
    matrix, x = PackedMatrix(_normal(300, 200), None, "float32"), _normal(40, 200)
    expected = matrix(x)
    wrong: list[int] = []

    def repeat(index: int) -> None:
        for _ in range(50):
            if not torch.equal(matrix(x), expected):
                wrong.append(index)

    threads = [threading.Thread(target=repeat, args=(index,)) for index in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert not wrong


def test_a_forked_process_computes_too() -> None:
    matrix, x = PackedMatrix(_normal(300, 200), None, "float32"), _normal(40, 200)
    expected = matrix(x)

    child = os.fork()
    if child == 0:
        os._exit(0 if torch.equal(matrix(x), expected) else 1)

    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


def _compiler(folder: Path, *lines: str) -> str:
    """A compiler of a few lines of shell."""
    path = folder / "compiler"
    path.write_text("\n".join(("#!/bin/sh", *lines, "")))
    path.chmod(0o755)
    return str(path)


def test_processes_that_start_at_once_build_one_library(tmp_path: Path) -> None:
    # Each takes until all have begun, and writes the file that `-o` names, its last argument.
    began = tmp_path / "began"
    waits = f"while [ $(wc -l < {began}) -lt 2 ]; do sleep 0.02; done"
    writes = 'for last in "$@"; do :; done; echo $$ > "$last"'
    compiler = _compiler(tmp_path, f"echo $$ >> {began}", waits, writes)
    script = Path(native.__file__).with_name("build.py")
    program = f"import runpy; print(runpy.run_path({str(script)!r})['build']())"
    cache = tmp_path / "cache"
    environment = {**os.environ, "XDG_CACHE_HOME": str(cache), "CXX": compiler}

    running = [
        subprocess.Popen(
            [sys.executable, "-c", program], env=environment, stdout=subprocess.PIPE, text=True
        )
        for _ in range(2)
    ]
    found = {process.communicate()[0].strip() for process in running}

    assert len(found) == 1
    (path,) = (cache / "baton" / "native").iterdir()
    assert found == {str(path)}
    assert path.read_text() in began.read_text()


def test_a_compiler_that_fails_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    broken = _compiler(tmp_path, "echo no such option >&2", "exit 1")
    monkeypatch.setenv("CXX", broken)

    with pytest.raises(NativeUnavailable, match="compiler failed: no such option"):
        build(folder=tmp_path / "cache")

    assert list((tmp_path / "cache").iterdir()) == []


def test_an_image_brings_libraries_for_kinds_of_cpus(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    script, folder = Path(native.__file__).with_name("build.py"), tmp_path / "image"
    # Without optimisation, which takes long, and which the library of the other tests has.
    named = (*os.environ.get("CXX", "").split()[:1], "g++", "clang++", "c++")
    found = next(filter(None, map(shutil.which, named)))
    quick = _compiler(tmp_path, f'exec {found} "$@" -O0')
    done = subprocess.run(
        [sys.executable, "-I", str(script), str(folder)],
        env={**os.environ, "CXX": quick},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    made = [Path(line) for line in done.stdout.split()]
    assert sorted(folder.iterdir()) == sorted(made)
    matrix, x = PackedMatrix(_normal(40, 30), None, "float32"), _normal(3, 30)
    expected = matrix(x)

    monkeypatch.setenv("BATON_NATIVE", str(folder))
    monkeypatch.setenv("PATH", "/nowhere")
    forget()
    try:
        torch.testing.assert_close(matrix(x), expected)
        for path in made:
            path.unlink()
        forget()
        assert not native.is_available()
    finally:
        monkeypatch.undo()
        forget()
