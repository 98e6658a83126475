"""What each process loads, seen from outside: one fresh interpreter per question."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]

REPORT = """
import importlib, pkgutil, sys
package = importlib.import_module({name!r})
for module in pkgutil.walk_packages(getattr(package, "__path__", []), package.__name__ + "."):
    if not module.name.endswith(".cuda"):  # needs triton, imported only where chosen
        importlib.import_module(module.name)
print(*sorted({{name.partition(".")[0] for name in sys.modules}}))
"""

# Everything that an echo worker is made of, and a prompt through it.
ECHO_WORKER = """
import sys
import services.decode.__main__, services.prefill.__main__
from baton.engine.types import EngineConfig, SequenceSpec
from baton.request import SamplingParams
from baton.worker.engines import load_source
from services.decode.settings import DecodeSettings
settings = DecodeSettings(model={model!r}, engine="echo")
engine = load_source(settings).make_engine(EngineConfig(num_blocks=8))
engine.add(SequenceSpec("s", (5, 6, 7), 3, SamplingParams(max_tokens=1)))
assert [token.token_id for token in engine.step().tokens] == [5]
print(*sorted({{name.partition(".")[0] for name in sys.modules}}))
"""

# Every module below the name is imported, `__main__` included.
FORBIDDEN = {
    "services.gateway": {"torch", "kernels", "safetensors"},
    "services.kvstore": {"torch", "kernels", "safetensors", "tokenizers"},
    "services.planner": {"torch", "kernels", "safetensors", "tokenizers"},
    "baton.client": {"torch", "kernels", "tokenizers", "redis"},
    "baton.cli": {"torch", "kernels", "tokenizers"},
    "baton.rpc": {"torch", "kernels", "redis"},
    "baton.registry": {"torch", "kernels"},
    "baton.text": {"torch", "grpc", "transformers"},
    "baton.guides": {"torch", "grpc", "google", "transformers", "tokenizers"},
    "baton.engine": {"grpc", "google", "redis", "transformers"},
    "baton.policy": {"torch", "grpc", "google", "redis"},
    "kernels": {"baton", "services", "grpc", "google", "transformers"},
}


def loaded_packages(name: str) -> set[str]:
    result = subprocess.run(
        [sys.executable, "-c", REPORT.format(name=name)], cwd=ROOT, capture_output=True, text=True
    )
    assert result.returncode == 0, result.stderr
    return set(result.stdout.split())


@pytest.mark.parametrize("name", FORBIDDEN)
def test_process_loads_only_what_it_may(name):
    if importlib.util.find_spec(name) is None:
        pytest.skip(f"{name} does not exist yet")

    loaded = loaded_packages(name)

    assert loaded & FORBIDDEN[name] == set()


@pytest.mark.parametrize("service", ["gateway", "prefill", "decode", "kvstore"])
def test_service_loads_no_other_service(service):
    script = REPORT.format(name=f"services.{service}") + (
        "print(*[name for name in sys.modules if name.count('.') == 1 and name[:9] == 'services.'])"
    )
    result = subprocess.run(
        [sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True
    )
    assert result.returncode == 0, result.stderr

    assert set(result.stdout.splitlines()[-1].split()) == {f"services.{service}"}


@pytest.mark.parametrize("name", ["baton", "kernels", "services", "tools"])
def test_our_packages_are_found_inside_the_repository(name):
    # A published distribution is called `kernels` too; installed over ours it wins in silence.
    spec = importlib.util.find_spec(name)

    assert spec is not None
    assert ROOT in Path(spec.origin).resolve().parents


def test_an_echo_worker_loads_no_torch():
    script = ECHO_WORKER.format(model=str(ROOT / "examples" / "demo_model"))
    result = subprocess.run(
        [sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True
    )
    assert result.returncode == 0, result.stderr

    loaded = set(result.stdout.split())
    assert loaded & {"torch", "kernels", "safetensors", "tokenizers", "transformers"} == set()


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({}, "1000"),
        ({"GOMP_SPINCOUNT": "7"}, "7"),
        ({"OMP_WAIT_POLICY": "active"}, "None"),
    ],
)
def test_services_tell_openmp_to_spin_briefly_unless_the_user_says_otherwise(
    given: dict[str, str], expected: str
) -> None:
    program = "import os, services; print(os.environ.get('GOMP_SPINCOUNT'))"
    names = ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY")
    kept = {name: value for name, value in os.environ.items() if name not in names}

    result = subprocess.run(
        [sys.executable, "-c", program],
        cwd=ROOT,
        env={**kept, **given},
        capture_output=True,
        text=True,
    )

    assert result.stdout.strip() == expected, result.stderr
