"""Tenants: what a file says of them, and how keys name them."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pytest
from pydantic import ValidationError

from baton.errors import InvalidRequest
from services.gateway import identity
from services.gateway.settings import Settings
from services.gateway.tenants import Tenants

KEY = "sk-secret"
FILE = {
    "default": {"weight": 0.5, "max_priority": 0},
    "tenants": {
        "acme": {
            "weight": 3,
            "target_ttft_ms": 800,
            "key_sha256": [hashlib.sha256(KEY.encode()).hexdigest()],
        },
        "open": {"max_priority": 10},
    },
}


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "tenants.json"
    path.write_text(json.dumps(FILE))
    return path


def test_a_file_gives_weights_priorities_and_targets(path):
    tenants = Tenants.read(path, {"open": 7.0})

    assert [tenants.weight(name) for name in ("acme", "open", "nobody")] == [3, 7, 0.5]
    assert [tenants.priority(name, 50) for name in ("acme", "open", "nobody")] == [50, 10, 0]
    assert tenants.priority("nobody", -5) == -5
    assert [tenants.target_ttft_s(name) for name in ("acme", "open")] == [0.8, 0]


def test_a_key_names_its_tenant_and_no_other(path):
    tenants = Tenants.read(path, {})

    assert tenants.named("", KEY) == "acme"
    assert tenants.named("acme", KEY) == "acme"
    assert tenants.named("open", "unknown") == "open"
    assert tenants.named("", "") == ""
    with pytest.raises(InvalidRequest, match="x-baton-tenant is 'open'"):
        tenants.named("open", KEY, "x-baton-tenant")
    for key in ("", "unknown"):
        with pytest.raises(InvalidRequest, match="tenant is 'acme'"):
            tenants.named("acme", key)


@pytest.mark.parametrize(
    ("header", "key"),
    [("Bearer abc", "abc"), ("bearer  abc ", "abc"), ("Basic abc", ""), ("", ""), ("abc", "")],
)
def test_a_key_is_what_a_bearer_brings(header, key):
    assert identity.api_key(header) == key


@pytest.mark.parametrize("weights", ["acme", "acme=0", "acme=-1", "=2", "acme=nan", "acme=many"])
def test_a_weight_that_is_none_is_refused_at_start(weights):
    with pytest.raises(ValidationError, match="reads name=number"):
        Settings(decode=("127.0.0.1:1",), tenant_weights=(weights,))


def test_a_file_with_a_name_nobody_knows_is_refused_at_start(tmp_path):
    path = tmp_path / "tenants.json"
    path.write_text('{"tenants": {"acme": {"wieght": 2}}}')
    with pytest.raises(ValidationError, match="wieght"):
        Settings(decode=("127.0.0.1:1",), tenants=path)


def test_weights_by_flag():
    settings = Settings(decode=("127.0.0.1:1",), tenant_weights=("acme=2", "a=b=3"))

    assert settings.weights() == {"acme": 2.0, "a=b": 3.0}
