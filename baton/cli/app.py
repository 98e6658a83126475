"""The commands and their flags. What they do is imported when called: help comes at once."""

from __future__ import annotations

import sys
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from baton.cli.topology import DEMO_MODEL, GRPC_PORT, HTTP_PORT, STEP_TIMES, ClusterOptions
from baton.request import Guide, GuideKind

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
    epilog="New here? Start with [bold]baton demo[/], or [bold]baton doctor[/] when that fails. "
    "[bold]--debug[/] shows where an error comes from.",
)
DEFAULT_ADDRESS = f"127.0.0.1:{GRPC_PORT}"


class Device(StrEnum):
    """Where workers compute."""

    AUTO = "auto"
    CPU = "cpu"
    CUDA = "cuda"


class EngineKind(StrEnum):
    """What workers run."""

    MODEL = "model"
    ECHO = "echo"
    EMULATED = "emulated"


class LogFormat(StrEnum):
    """How lines of processes look."""

    TERMINAL = "terminal"
    JSON = "json"


class LogLevel(StrEnum):
    """The least important lines shown."""

    DEBUG = "debug"
    INFO = "info"
    WARNING = "warning"
    ERROR = "error"


# Flags that more than one command has.
Model = Annotated[
    Path, typer.Option(help="Hugging Face model folder.", show_default="the demo model")
]
DeviceFlag = Annotated[Device, typer.Option(help="auto: CUDA where torch and a GPU allow it.")]
EngineFlag = Annotated[
    EngineKind,
    typer.Option(
        help="model: computes; echo: repeats the prompt at no cost; emulated: repeats it at the "
        "pace of --step-times. The last two read no weights."
    ),
]
StepTimesFlag = Annotated[
    Path, typer.Option(help="CSV of step times for emulated.", show_default="made-up numbers")
]
Threads = Annotated[
    int, typer.Option(min=0, help="CPU threads per worker; 0: an equal share of the cores.")
]
RedisUrl = Annotated[str, typer.Option(help="A running Redis; empty: starts one.")]
Address = Annotated[str, typer.Option(help="A gateway's gRPC address.")]
ModelName = Annotated[str, typer.Option(help="Name of the model; empty: the only one served.")]
MaxTokens = Annotated[int, typer.Option(min=1, help="Most tokens of the answer.")]
Temperature = Annotated[
    float | None, typer.Option(min=0, max=2, help="0 is greedy.", show_default="the model's own")
]
TopP = Annotated[
    float | None, typer.Option(max=1, help="Nucleus mass.", show_default="the model's own")
]
Seed = Annotated[int | None, typer.Option(min=0, help="Same seed, same answer.")]
Extra = Annotated[
    list[str] | None,
    typer.Option("--set", help="A flag for a kind of process, as `decode:--kv-bytes=1GiB`."),
]


@app.command(epilog="Example: baton up --model ~/models/Qwen3-0.6B --prefill 2 --decode 2")
def up(
    *,
    model: Model = DEMO_MODEL,
    prefill: Annotated[int, typer.Option(min=0, max=64, help="Prefill workers.")] = 1,
    decode: Annotated[int, typer.Option(min=1, max=64, help="Decode workers.")] = 1,
    gateways: Annotated[
        int, typer.Option(min=1, max=64, help="Gateways; several share both ports (Linux only).")
    ] = 1,
    kvstores: Annotated[int, typer.Option(min=0, max=64, help="Stores of KV blocks.")] = 1,
    kvstore_disk: Annotated[
        Path | None,
        typer.Option(help="Folder for blocks that leave the stores' memory.", show_default="none"),
    ] = None,
    kvstore_disk_bytes: Annotated[
        str, typer.Option(help="Most bytes there for each store, such as 64GiB.")
    ] = "8GiB",
    device: DeviceFlag = Device.AUTO,
    engine: EngineFlag = EngineKind.MODEL,
    step_times: StepTimesFlag = STEP_TIMES,
    redis_url: RedisUrl = "",
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="gRPC; 0: any.")] = GRPC_PORT,
    http_port: Annotated[
        int, typer.Option(min=0, max=65535, help="OpenAI HTTP; 0: any.")
    ] = HTTP_PORT,
    threads: Threads = 0,
    grace_seconds: Annotated[
        float, typer.Option(min=0, help="Time for running requests after Ctrl-C.")
    ] = 5.0,
    log_format: LogFormat = LogFormat.TERMINAL,
    log_level: LogLevel = LogLevel.INFO,
    extra: Extra = None,
) -> None:
    """Run everything on this machine until Ctrl-C: Redis, kvstore, workers, gateway.

    A process that falls over is started again. Ctrl-C lets running requests finish first.
    """
    from baton.cli.up import run_up

    options = ClusterOptions(
        model=model.expanduser(),
        prefill=prefill,
        decode=decode,
        gateways=gateways,
        kvstores=kvstores,
        kvstore_disk=kvstore_disk.expanduser() if kvstore_disk else None,
        kvstore_disk_bytes=kvstore_disk_bytes,
        device=device.value,
        engine=engine.value,
        step_times=step_times.expanduser(),
        redis_url=redis_url,
        host=host,
        port=port,
        http_port=http_port,
        threads=threads,
        grace_seconds=grace_seconds,
        log_format=log_format.value,
        log_level=log_level.value,
        extra=parse_extra(extra or []),
    )
    sys.exit(run_up(options))


@app.command(epilog='Example: baton demo "What does a mutex do?" --max-tokens 80')
def demo(
    question: Annotated[str, typer.Argument(help="What to ask.", show_default=False)] = "",
    *,
    model: Model = DEMO_MODEL,
    device: DeviceFlag = Device.AUTO,
    engine: EngineFlag = EngineKind.MODEL,
    step_times: StepTimesFlag = STEP_TIMES,
    max_tokens: MaxTokens = 160,
    threads: Threads = 0,
    verbose: Annotated[bool, typer.Option(help="Show the processes' own lines.")] = False,
) -> None:
    """Start five processes, ask one question, show who answered and how fast, stop."""
    from baton.cli.demo import DemoOptions, run_demo

    options = DemoOptions(
        question=question,
        model=model.expanduser(),
        device=device.value,
        engine=engine.value,
        step_times=step_times.expanduser(),
        max_tokens=max_tokens,
        threads=threads,
        is_verbose=verbose,
    )
    sys.exit(run_demo(options))


@app.command(epilog="Examples: baton generate 'What is a process?'   cat notes | baton generate -")
def generate(
    prompt: Annotated[str, typer.Argument(help="What to ask; `-` reads standard input.")],
    *,
    address: Address = DEFAULT_ADDRESS,
    model: ModelName = "",
    max_tokens: MaxTokens = 256,
    temperature: Temperature = None,
    top_p: TopP = None,
    seed: Seed = None,
    stop: Annotated[list[str] | None, typer.Option(help="Ends the answer; repeatable.")] = None,
    raw: Annotated[
        bool, typer.Option("--raw", help="Continue the text as it is, without chat template.")
    ] = False,
    quiet: Annotated[bool, typer.Option("--quiet", help="No figures behind the answer.")] = False,
    json_schema: Annotated[
        str, typer.Option(help="A schema, or @FILE with one, that the answer must meet.")
    ] = "",
    regex: Annotated[str, typer.Option(help="An expression for the whole answer.")] = "",
) -> None:
    """Stream one answer from a running gateway: text to standard output, figures to error."""
    from baton.cli.ask import run_generate
    from baton.client import Sampling

    sampling = Sampling(
        max_tokens=max_tokens,
        temperature=temperature,
        top_p=top_p,
        seed=seed,
        stop_strings=tuple(stop or ()),
        guide=parse_guide(json_schema, regex),
    )
    text = sys.stdin.read() if prompt == "-" else prompt
    asked = text if raw else [{"role": "user", "content": text}]
    sys.exit(run_generate(address, model, asked, sampling, is_quiet=quiet))


@app.command(epilog="Example: baton chat --system 'Answer in one sentence.'")
def chat(
    *,
    address: Address = DEFAULT_ADDRESS,
    model: ModelName = "",
    system: Annotated[str, typer.Option(help="A system message.")] = "",
    max_tokens: MaxTokens = 256,
    temperature: Temperature = None,
    top_p: TopP = None,
    seed: Seed = None,
) -> None:
    """Talk to a running gateway. Ctrl-C ends an answer, /clear forgets, /exit leaves."""
    from baton.cli.chat import run_chat
    from baton.client import Sampling

    sampling = Sampling(max_tokens=max_tokens, temperature=temperature, top_p=top_p, seed=seed)
    sys.exit(run_chat(address, model, system, sampling))


@app.command(epilog="Example: baton explain 4f1c0f3e --address 127.0.0.1:8500")
def explain(
    request_id: Annotated[str, typer.Argument(help="As answers and log lines name it.")],
    *,
    address: Address = DEFAULT_ADDRESS,
    all_options: Annotated[bool, typer.Option("--all", help="All ways that were weighed.")] = False,
) -> None:
    """Tell where a recent request went, what else was weighed, and what then happened."""
    from baton.cli.explain import run_explain

    sys.exit(run_explain(address, request_id, most=1000 if all_options else 8))


@app.command()
def doctor(
    model: Model = DEMO_MODEL,
    port: Annotated[int, typer.Option(min=0, max=65535, help="gRPC port to look at.")] = GRPC_PORT,
    http_port: Annotated[
        int, typer.Option(min=0, max=65535, help="HTTP port to look at.")
    ] = HTTP_PORT,
    redis_url: RedisUrl = "",
) -> None:
    """Look at Python, ports, Redis, memory, GPU, torch, kernels and model; say what to do."""
    from baton.cli.doctor import run_doctor

    ports = {"--port": port, "--http-port": http_port}
    sys.exit(run_doctor(model.expanduser(), ports, redis_url))


def parse_guide(json_schema: str, regex: str) -> Guide | None:
    """What `--json-schema` or `--regex` ask for."""
    if json_schema and regex:
        raise typer.BadParameter("--json-schema and --regex exclude each other")
    if regex:
        return Guide(GuideKind.REGEX, regex)
    if json_schema.startswith("@"):
        try:
            json_schema = Path(json_schema[1:]).expanduser().read_text(encoding="utf-8")
        except (OSError, ValueError) as error:
            raise typer.BadParameter(f"--json-schema {json_schema}: {error}") from error
    return Guide(GuideKind.JSON_SCHEMA, json_schema) if json_schema else None


def parse_extra(words: list[str]) -> dict[str, list[str]]:
    """`kind:--flag=value` words, by kind."""
    extra: dict[str, list[str]] = {}
    for word in words:
        kind, _, flag = word.partition(":")
        if kind not in ("gateway", "prefill", "decode", "kvstore") or not flag.startswith("--"):
            raise typer.BadParameter(
                f"{word!r} must read KIND:--flag=value; KIND is gateway, prefill, decode or kvstore"
            )
        extra.setdefault(kind, []).append(flag)
    return extra
