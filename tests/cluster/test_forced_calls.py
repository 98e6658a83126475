"""Tool calls that must come, from models of random weights in real processes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import httpx
import jsonschema
import openai
import pytest
from checkpoints import make_checkpoint
from cluster import Cluster
from tool_model import TEMPLATE

pytestmark = pytest.mark.cluster

# Bounded, so that an answer of any model comes to its end.
SCHEMAS: dict[str, Any] = {
    "weather": {
        "type": "object",
        "properties": {
            "city": {"enum": ["Köln", "😀"]},
            "days": {"type": "integer", "minimum": 1, "maximum": 14},
        },
        "required": ["city", "days"],
        "additionalProperties": False,
    },
    "note": {
        "type": "object",
        "properties": {"text": {"type": "string", "maxLength": 8}, "is_new": {"type": "boolean"}},
        "required": ["text"],
        "additionalProperties": False,
    },
}
TOOLS: list[Any] = [
    {"type": "function", "function": {"name": name, "parameters": schema}}
    for name, schema in SCHEMAS.items()
]
NAMED = {"type": "function", "function": {"name": "note"}}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random model whose template shows tools in the Hermes form."""
    folder = make_checkpoint(tmp_path_factory.mktemp("models") / "tiny", "qwen3")
    path = folder / "tokenizer_config.json"
    config = json.loads(path.read_text())
    path.write_text(json.dumps({**config, "chat_template": TEMPLATE}))
    return folder


async def ask(client: openai.AsyncOpenAI, is_stream: bool, **options: Any) -> tuple[str, list[Any]]:
    """The finish reason, and the calls as (name, arguments)."""
    options = {
        "model": "tiny",
        "messages": [{"role": "user", "content": "How is the weather?"}],
        "tools": TOOLS,
        "parallel_tool_calls": False,
        "temperature": 1.0,
        "max_tokens": 300,
        **options,
    }
    if not is_stream:
        answer = await client.chat.completions.create(**options)
    else:
        async with client.chat.completions.stream(**options) as stream:
            answer = await stream.get_final_completion()
    (choice,) = answer.choices
    calls = choice.message.tool_calls or []
    assert not choice.message.content
    return choice.finish_reason, [(call.function.name, call.function.arguments) for call in calls]


@pytest.mark.parametrize(
    ("engine", "num_prefill", "mode"),
    [("model", 1, "remote"), ("model", 0, "local"), ("echo", 1, "remote")],
)
async def test_a_forced_call_is_one_of_an_offered_tool_with_arguments_of_its_schema(
    start_cluster: Any, folder: Path, engine: str, num_prefill: int, mode: str
) -> None:
    cluster: Cluster = start_cluster(model=folder, engine=engine, prefill=num_prefill)
    base = f"{cluster.http_url()}/v1"
    asked = [(choice, seed) for choice in ("required", NAMED) for seed in range(4)]
    called = set()

    async with openai.AsyncOpenAI(
        base_url=base, api_key="none", max_retries=0, timeout=30
    ) as client:
        for choice, seed in asked:
            # A salt of its own, so that each prompt is computed anew and handed off.
            extra = {"cache_salt": f"{choice}-{seed}"}
            reason, calls = await ask(
                client, seed % 2 == 1, tool_choice=choice, seed=seed, extra_body=extra
            )

            ((name, arguments),) = calls
            jsonschema.validate(json.loads(arguments), SCHEMAS[name])
            assert reason == "tool_calls"
            assert choice == "required" or name == "note"
            called.add(name)

    assert engine == "echo" or called == SCHEMAS.keys()
    told = httpx.get(cluster.metrics_url("decode-0"), trust_env=False).text
    assert f'first_token_seconds_count{{mode="{mode}"}} {len(asked)}.0' in told
