"""Chat templates against transformers, and what happens when they refuse."""

from __future__ import annotations

import re
from datetime import datetime
from pathlib import Path

import pytest

from baton.errors import InvalidRequest, ModelError
from baton.text import load_text
from tests.support.tokenizers_made import (
    CHAT_TEMPLATE,
    byte_level_tokenizer,
    metaspace_tokenizer,
    write_folder,
)

MESSAGES = [
    {"role": "system", "content": "Be <brief> & kind."},
    {"role": "user", "content": "Größe?\n"},
    {"role": "assistant", "content": "  Yes. "},
    {"role": "user", "content": "😀"},
]

TEMPLATES = {
    "plain": CHAT_TEMPLATE,
    "whitespace": (
        "{%- for message in messages %}\n    {% if loop.first %}\n{{ bos_token }}{% endif %}\n"
        "    {{- message.role | upper }}: {{ message.content | trim }}\n{% endfor %}\n"
        "{%- if add_generation_prompt %}ASSISTANT:{% endif %}"
    ),
    "json and loop controls": (
        "{% for m in messages %}{% if m.role == 'system' %}{% continue %}{% endif %}"
        "{{ m | tojson }}{% if loop.index > 2 %}{% break %}{% endif %}{% endfor %}"
    ),
    "generation tag and namespace": (
        "{% set ns = namespace(n=0) %}{% for m in messages %}{% set ns.n = ns.n + 1 %}"
        "{% generation %}{{ m.content }}{% endgeneration %}{% endfor %}{{ ns.n }}{{ eos_token }}"
    ),
}


def folder_with(tmp_path: Path, template: object) -> Path:
    tokens = {
        "bos_token": "<|endoftext|>",
        "eos_token": {"__type": "AddedToken", "content": "<|im_end|>"},
    }
    return write_folder(
        tmp_path,
        byte_level_tokenizer(),
        tokenizer_config={
            "tokenizer_class": "PreTrainedTokenizerFast",
            **tokens,
            "chat_template": template,
        },
    )


@pytest.mark.parametrize("name", TEMPLATES)
@pytest.mark.parametrize("add_generation_prompt", [True, False])
def test_a_chat_reads_as_transformers_renders_it(
    name: str, add_generation_prompt: bool, tmp_path: Path
) -> None:
    transformers = pytest.importorskip("transformers")
    folder = folder_with(tmp_path, TEMPLATES[name])
    oracle = transformers.PreTrainedTokenizerFast.from_pretrained(folder)

    text = load_text(folder)

    options = {"add_generation_prompt": add_generation_prompt}
    assert text.render_chat(MESSAGES, **options) == oracle.apply_chat_template(
        MESSAGES, tokenize=False, **options
    )
    encoded = oracle.apply_chat_template(MESSAGES, return_dict=True, **options)
    assert text.encode_chat(MESSAGES, **options) == encoded["input_ids"]


def test_a_chat_gets_no_second_beginning_of_sequence(tmp_path: Path) -> None:
    template = "{{ bos_token }}{{ messages[0].content }}"
    config = {"bos_token": "<s>", "chat_template": template}
    text = load_text(write_folder(tmp_path, metaspace_tokenizer(), tokenizer_config=config))

    prompt, chat = text.encode("hello"), text.encode_chat([{"role": "user", "content": "hello"}])

    assert (prompt.count(1), chat.count(1)) == (1, 1)
    assert text.decode(chat).strip() == text.decode(prompt)


def test_a_template_file_wins_over_the_tokenizer_config(tmp_path: Path) -> None:
    folder = folder_with(tmp_path, "from the config")
    (folder / "chat_template.jinja").write_text("from the file")

    assert load_text(folder).render_chat(MESSAGES) == "from the file"


def test_named_templates_are_chosen_by_use(tmp_path: Path) -> None:
    named = [
        {"name": "default", "template": "plain"},
        {"name": "tool_use", "template": "{{ tools[0].name }}"},
    ]
    text = load_text(folder_with(tmp_path, named))

    assert text.render_chat(MESSAGES) == "plain"
    assert text.render_chat(MESSAGES, tools=[{"name": "clock"}]) == "clock"


def test_the_date_is_todays(tmp_path: Path) -> None:
    text = load_text(folder_with(tmp_path, "{{ strftime_now('%Y') }}"))

    assert text.render_chat(MESSAGES) == str(datetime.now().year)


@pytest.mark.parametrize(
    ("template", "complaint"),
    [
        ("{{ raise_exception('roles must alternate') }}", "roles must alternate"),
        ("{{ messages[7].content }}", "has no element 7"),
        ("{{ 1 // (messages | length - 4) }}", "ZeroDivisionError"),
        ("{{ messages.append(1) }}", "unsafe|safely"),
        ("{{ messages.__class__.__mro__ }}", "unsafe|safely"),
    ],
)
def test_what_a_template_refuses_is_the_clients_fault(
    template: str, complaint: str, tmp_path: Path
) -> None:
    text = load_text(folder_with(tmp_path, template))

    with pytest.raises(InvalidRequest, match=complaint) as raised:
        text.render_chat(MESSAGES)

    assert raised.value.field == "messages"


def test_a_model_without_a_template_refuses_messages(tmp_path: Path) -> None:
    text = load_text(folder_with(tmp_path, None))

    with pytest.raises(InvalidRequest, match="no default chat template"):
        text.render_chat(MESSAGES)


@pytest.mark.parametrize(
    ("template", "complaint"),
    [
        ("{% for %}", "not valid Jinja"),
        ([{"name": "default"}], re.escape("list of objects")),
        (3, "must be a string"),
    ],
)
def test_a_broken_template_stops_the_load(template: object, complaint: str, tmp_path: Path) -> None:
    folder = folder_with(tmp_path, template)

    with pytest.raises(ModelError, match=complaint):
        load_text(folder)
