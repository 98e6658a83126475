"""Settings that prefill and decode workers have in common."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import ByteSize, DirectoryPath, Field, FilePath
from pydantic import model_validator as validates_model

from baton.rpc.settings import Addresses, ServiceSettings, Words
from baton.transfer.select import TRANSPORTS


class WorkerSettings(ServiceSettings):
    """A worker's model, device and sizes."""

    model: DirectoryPath
    """Folder of the model, as Hugging Face lays it out."""
    model_name: str = ""
    """Name that clients ask for; empty: the folder's name."""
    engine: Literal["model", "echo", "emulated"] = "model"
    """What runs: the model, its prompts echoed at no cost, or echoed at the pace of a table."""
    step_times: FilePath | None = None
    """CSV of step times for --engine emulated: a grid of rows with the columns prompt_tokens,
    decode_sequences, context_tokens, step_us; linear in between."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """Where to compute; auto: CUDA where there is a GPU."""
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    """Type of weights and KV; auto: float32 on a CPU, the checkpoint's own type on a GPU."""
    weights: Literal["auto", "float32", "bfloat16", "int8"] = "auto"
    """What a CPU holds weights in: int8 loses some precision; auto: what the checkpoint does."""
    threads: Annotated[int, Field(ge=0, le=1024)] = 0
    """Threads for arithmetic on the CPU; 0: as many as there are cores that it may use."""
    block_size: Annotated[int, Field(ge=16, le=64)] = 16
    """Tokens in a block."""
    kv_bytes: ByteSize = ByteSize(0)
    """Memory for blocks, such as 4GiB; 0: 256MiB on a CPU (16MiB for echo), most of what is
    left free on a GPU."""
    num_blocks: Annotated[int, Field(ge=0)] = 0
    """Blocks in the arena; 0: as many as fit into --kv-bytes."""
    context_len: Annotated[int, Field(ge=0)] = 0
    """Longest sequence in tokens; 0: the model's own limit."""
    max_batch_tokens: Annotated[int, Field(ge=1)] = 512
    """Token budget of one engine step."""
    max_sequences: Annotated[int, Field(ge=1)] = 64
    """Most sequences in one engine step."""
    kernels: str = ""
    """Forces implementations: `reference`, or `rms_norm=reference,…`; empty: the device's own."""
    batch_invariant: bool = False
    """Whether a sequence's tokens and log-probabilities are the same, bit for bit, whatever runs
    beside it, wherever its prompt is computed and in whichever chunks; slower on a GPU."""
    cuda_graphs: bool = False
    """Whether decode steps on a GPU run as CUDA graphs; not together with --batch-invariant. Off
    until somebody has run them on a GPU."""
    lookahead: Literal["auto", "on", "off"] = "auto"
    """Whether an engine step is launched before the tokens of the one before have been read, so
    that a GPU need not wait for the host; auto: on a GPU. On a CPU it only delays tokens."""
    kvstore: Addresses = ()
    """Addresses of kvstores to offer blocks to and fetch them from."""
    transports: Words = TRANSPORTS
    """Transports allowed for hand-offs, best first: shm, grpc."""

    @property
    def served_name(self) -> str:
        """Name that clients ask for."""
        return self.model_name or Path(self.model).resolve().name

    @validates_model(mode="after")
    def _fits_together(self) -> Self:
        if self.cuda_graphs and self.batch_invariant:
            raise ValueError("--cuda-graphs and --batch-invariant exclude each other")
        if self.lookahead == "on" and self.engine != "model":
            raise ValueError("--lookahead on needs --engine model")
        if (self.engine == "emulated") != (self.step_times is not None):
            raise ValueError("--step-times and --engine emulated come together or not at all")
        return self
