"""Every test of manifests runs for the base and for each overlay."""

from __future__ import annotations

import manifests as support
import pytest


@pytest.fixture(scope="session", params=support.VARIANTS)
def manifests(request: pytest.FixtureRequest) -> support.Manifests:
    """Each kustomization in turn."""
    return support.load(request.param)
