"""What the door tells of itself and of models: metadata and configuration."""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError
from importlib.metadata import version as installed_version
from typing import cast

from baton.errors import InvalidRequest, UnknownModel
from baton.kserve.v2 import inference_pb2 as pb
from services.gateway.kserve.parameters import PARAMETERS, SAMPLING_PARAMETERS
from services.gateway.kserve.requests import INPUT_IDS, TEXT_INPUT, VERSION
from services.gateway.types import ModelInfo

PLATFORM = "baton"
EXTENSIONS = ("model_configuration", "model_repository", "parameters", "schedule_policy")

# Name, type and shape; -1: any number of elements.
_Facts = tuple[str, str, tuple[int, ...]]
_INPUTS: tuple[_Facts, ...] = (
    (TEXT_INPUT, "BYTES", (1,)),
    (INPUT_IDS, "INT32", (-1,)),
    (SAMPLING_PARAMETERS, "BYTES", (1,)),
    *(
        (name, parameter.datatype, parameter.shape)
        for name, parameter in PARAMETERS.items()
        if not name.startswith("triton_")
    ),
)
_OUTPUTS: tuple[_Facts, ...] = (
    ("text_output", "BYTES", (1,)),
    ("finish_reason", "BYTES", (1,)),
    ("output_ids", "INT32", (-1,)),
    ("logprobs", "FP32", (-1,)),
    ("top_logprob_ids", "INT32", (-1, -1)),
    ("top_logprobs", "FP32", (-1, -1)),
    ("num_input_tokens", "UINT32", (1,)),
    ("num_output_tokens", "UINT32", (1,)),
)


def server_metadata() -> pb.ServerMetadataResponse:
    """What the server is."""
    try:
        number = installed_version("baton-serve")
    except PackageNotFoundError:  # run from a folder that nobody installed
        number = "unknown"
    return pb.ServerMetadataResponse(name=PLATFORM, version=number, extensions=EXTENSIONS)


def find(models: list[ModelInfo], name: str) -> ModelInfo:
    """A live model by its name; with an empty one, the only model. Or `UnknownModel`."""
    known = ", ".join(model.name for model in models) or "none"
    if not name and len(models) > 1:
        raise InvalidRequest(
            f"name is empty, but {len(models)} models are served: {known}.", field="name"
        )
    for model in models:
        if name in ("", model.name):
            return model
    raise UnknownModel(f"name is {name!r}, which is not served; served: {known}.", field="name")


def model_metadata(model: ModelInfo) -> pb.ModelMetadataResponse:
    """A model's tensors."""
    tensor = pb.ModelMetadataResponse.TensorMetadata
    return pb.ModelMetadataResponse(
        name=model.name,
        versions=[VERSION],
        platform=PLATFORM,
        inputs=[tensor(name=name, datatype=kind, shape=shape) for name, kind, shape in _INPUTS],
        outputs=[tensor(name=name, datatype=kind, shape=shape) for name, kind, shape in _OUTPUTS],
    )


def model_config(model: ModelInfo) -> pb.ModelConfigResponse:
    """How a model is served."""
    config = pb.ModelConfig(
        name=model.name,
        platform=PLATFORM,
        backend=PLATFORM,
        max_batch_size=0,
        input=[
            pb.ModelInput(name=name, data_type=_type(kind), dims=shape, optional=True)
            for name, kind, shape in _INPUTS
        ],
        output=[
            pb.ModelOutput(name=name, data_type=_type(kind), dims=shape)
            for name, kind, shape in _OUTPUTS
        ],
        model_transaction_policy=pb.ModelTransactionPolicy(decoupled=True),
    )
    return pb.ModelConfigResponse(config=config)


def _type(datatype: str) -> pb.DataType:
    name = "TYPE_STRING" if datatype == "BYTES" else f"TYPE_{datatype}"
    return cast("pb.DataType", pb.DataType.Value(name))
