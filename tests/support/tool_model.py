"""A made model whose template shows tools and opens thoughts, as Qwen3's does."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tokenizers import AddedToken

from tests.support.tokenizers_made import byte_level_tokenizer, write_folder

TEMPLATE = (
    "{% if tools %}<|im_start|>system\n<tools>{% for tool in tools %}\n{{ tool | tojson }}"
    "{% endfor %}\n</tools><|im_end|>\n{% endif %}"
    "{% for message in messages %}<|im_start|>{{ message.role }}\n"
    "{% if message.role == 'tool' %}<tool_response>\n{{ message.content }}\n</tool_response>"
    "{% else %}{{ message.content }}{% for call in message.tool_calls or [] %}"
    '<tool_call>\n{"name": "{{ call.function.name }}", '
    '"arguments": {{ call.function.arguments | tojson }}}\n</tool_call>{% endfor %}{% endif %}'
    "<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n"
    "{% if opens_thought %}<think>\n{% endif %}{% endif %}"
)
CALL = '<tool_call>\n{"name": "weather", "arguments": {"city": "Köln 😀"}}\n</tool_call>'
ASK: list[Any] = [{"role": "user", "content": "How is the weather?"}]
TOOLS: list[Any] = [
    {
        "type": "function",
        "function": {
            "name": "weather",
            "description": "Tells the weather.",
            "parameters": {
                "type": "object",
                "properties": {"city": {"type": "string"}},
                "required": ["city"],
            },
            "strict": True,
        },
    },
    {"type": "function", "function": {"name": "time"}},
]


def write_tool_folder(folder: Path) -> Path:
    """Its tags are tokens of their own."""
    tokenizer = byte_level_tokenizer()
    tags = ["</think>", "<tool_call>", "</tool_call>"]
    tokenizer.add_tokens([AddedToken(tag, special=False) for tag in tags])
    return write_folder(
        folder,
        tokenizer,
        config={"max_position_embeddings": 4096},
        tokenizer_config={"chat_template": TEMPLATE},
    )
