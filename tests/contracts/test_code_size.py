"""Ceilings of the style sheet: 400 lines a module, 50 a function, six parameters."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
FOLDERS = ("baton", "kernels", "services", "tools", "bench", "examples", "tests")
MODULE_CEILING = 400
# A kernel is often one formula that must be read in one piece.
KERNEL_CEILING = 500
FUNCTION_CEILING = 50
PARAMETER_CEILING = 6
# Ops whose signature is their definition: data, shapes and scalars, all of them positional facts.
MAY_TAKE_MORE_PARAMETERS = ("kernels/", "tests/")

Function = ast.FunctionDef | ast.AsyncFunctionDef


def modules() -> list[Path]:
    """Python files we write by hand."""
    found = (path for folder in FOLDERS for path in (ROOT / folder).rglob("*.py"))
    return sorted(path for path in found if "_pb2" not in path.name)


def functions(path: Path) -> Iterator[tuple[str, Function]]:
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, Function):
            yield f"{path.relative_to(ROOT)}:{node.lineno} {node.name}", node


def num_lines(function: Function) -> int:
    """Lines of the body; decorators, signature and docstring do not count."""
    body = function.body
    if isinstance(body[0], ast.Expr) and isinstance(body[0].value, ast.Constant):
        body = body[1:]
    return body[-1].end_lineno - body[0].lineno + 1 if body else 0


def num_parameters(function: Function) -> int:
    """Positional ones without self; those by keyword only name themselves where they are given."""
    names = [argument.arg for argument in function.args.posonlyargs + function.args.args]
    return len([name for name in names if name not in ("self", "cls")])


def print_worst(title: str, sizes: dict[str, int]) -> None:
    print(f"\n{title}")
    for name, size in sorted(sizes.items(), key=lambda item: -item[1])[:5]:
        print(f"  {size:4} {name}")


def test_no_module_is_longer_than_its_ceiling():
    sizes = {str(path.relative_to(ROOT)): len(path.read_text().splitlines()) for path in modules()}
    print_worst("longest modules", sizes)

    too_long = {
        name: size
        for name, size in sizes.items()
        if size > (KERNEL_CEILING if name.startswith("kernels/") else MODULE_CEILING)
    }

    assert too_long == {}


def test_no_function_is_longer_than_its_ceiling():
    sizes = {name: num_lines(node) for path in modules() for name, node in functions(path)}
    print_worst("longest functions", sizes)

    assert {name: size for name, size in sizes.items() if size > FUNCTION_CEILING} == {}


def test_no_function_takes_more_than_six_parameters():
    sizes = {
        name: num_parameters(node)
        for path in modules()
        for name, node in functions(path)
        if not name.startswith(MAY_TAKE_MORE_PARAMETERS)
    }
    print_worst("most parameters", sizes)

    assert {name: size for name, size in sizes.items() if size > PARAMETER_CEILING} == {}


def test_helper_drawers_do_not_exist():
    drawers = {"utils.py", "common.py", "misc.py", "helpers.py"}

    assert [str(path.relative_to(ROOT)) for path in modules() if path.name in drawers] == []


def test_tests_are_not_packages():
    # An `__init__.py` in tests/kernels would answer to `import kernels`.
    assert list((ROOT / "tests").rglob("__init__.py")) == []
