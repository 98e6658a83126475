"""The KServe v2 door: the Open Inference Protocol over gRPC, for Triton's clients."""

from __future__ import annotations

from services.gateway.kserve.door import SERVICE_NAME, InferenceService

__all__ = ["SERVICE_NAME", "InferenceService"]
