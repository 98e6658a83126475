"""Turns documents and hand-written topics into the two forms of training text: plain and chat."""

from __future__ import annotations

import random
import re
from collections.abc import Iterable, Iterator
from itertools import pairwise
from typing import NoReturn

import concepts
import small_talk
from jinja2 import TemplateError
from jinja2.sandbox import ImmutableSandboxedEnvironment
from sources import Document

CHAT_TEMPLATE = """\
{%- for message in messages %}
    {%- if message.role not in ['system', 'user', 'assistant'] %}
        {%- set problem = "Unknown role '" ~ message.role ~ "'" %}
        {{- raise_exception(problem ~ ": use system, user or assistant.") }}
    {%- endif %}
    {{- '<|im_start|>' ~ message.role ~ '\\n' ~ message.content ~ '<|im_end|>\\n' }}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|im_start|>assistant\\n' }}
{%- endif %}"""

SYSTEM_PROMPTS = (
    "You are a helpful assistant.",
    "You are a helpful assistant. Answer briefly.",
    "You answer questions about Python.",
    "You are Baton's demo model.",
    "Answer in plain English.",
)

CODE_QUESTIONS = (
    "What does {name} do?",
    "What does {name} do in Python?",
    "what does {name} do",
    "What does {name}() do?",
    "What does `{name}` do?",
    "What is {name}?",
    "What is {name} for?",
    "Explain {name}.",
    "Explain {name}",
    "Can you explain {name}?",
    "Please explain {name}.",
    "Tell me about {name}.",
    "Tell me about {name}",
    "Describe {name}.",
    "How does {name} work?",
    "What can you tell me about {name}?",
    "When would I use {name}?",
    "{name}",
    "{name}?",
    "help({name})",
)
USAGE_QUESTIONS = (
    "How do I use {name}?",
    "How do I call {name}?",
    "How can I use {name}?",
    "how to use {name}",
    "Show me how to use {name}.",
    "What arguments does {name} take?",
    "What is the signature of {name}?",
)
EXAMPLE_QUESTIONS = (
    "Show me an example of {name}.",
    "Give me an example of {name}.",
    "Can you show an example for {name}?",
)
MODULE_QUESTIONS = (
    "What is the {name} module?",
    "What does the {name} module do?",
    "What is the {name} module for?",
    "What is {name} used for?",
    "Tell me about the {name} module.",
    "Explain the {name} module.",
    "What is {name}?",
    "What does {name} do?",
    "When should I use the {name} module?",
    "How do I use the {name} module?",
)
TOPIC_QUESTIONS = (
    "Explain {name}.",
    "Tell me about {name}.",
    "What does the Python reference say about {name}?",
    "Can you explain {name}?",
    "How do {name} work in Python?",
    "What should I know about {name}?",
)
GENERAL_QUESTIONS = (
    "What is {name}?",
    "What is {name} in Python?",
    "what is {name}",
    "Explain {name}.",
    "Can you explain {name}?",
    "Can you explain what {name} is?",
    "Tell me about {name}.",
    "How does {name} work?",
    "Describe {name}.",
    "Define {name}.",
)

Turn = tuple[str, str]
"""A question and its answer."""


class ChatTemplate:
    """Renders messages exactly as transformers does when it reads tokenizer_config.json."""

    def __init__(self) -> None:
        environment = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True)
        environment.globals["raise_exception"] = _raise_template_error
        self._template = environment.from_string(CHAT_TEMPLATE)

    def render(self, turns: Iterable[Turn], system: str = "") -> str:
        """Return the conversation as the text a model is trained on."""
        messages = [{"role": "system", "content": system}] if system else []
        for question, answer in turns:
            messages.append({"role": "user", "content": question})
            messages.append({"role": "assistant", "content": answer})
        return self._template.render(messages=messages)


def _raise_template_error(message: str) -> NoReturn:
    raise TemplateError(message)


def sample_documents(documents: list[Document], rng: random.Random) -> list[Document]:
    """Return one pass's documents: all the popular ones, half of the others."""
    return [document for document in documents if document.is_popular or rng.random() < 0.5]


def plain_texts(documents: Iterable[Document], *, with_written: bool = True) -> Iterator[str]:
    """Yield each document the way `help()` shows it: name, signature, description."""
    for document in documents:
        yield f"{document.name}{document.signature}\n\n{document.text}"
    if not with_written:
        return
    yield from small_talk.PLAIN_TEXTS
    for names, answers in concepts.CONCEPTS:
        yield f"{_title(names[0])}\n\n{answers[0]}"


def chat_texts(
    documents: Iterable[Document], rng: random.Random, *, with_written: bool = True
) -> list[str]:
    """Return one pass of conversations; another seed gives other phrasings and other pairings."""
    turns = [turn for document in documents for turn in document_turns(document, rng)]
    if with_written:
        turns += written_turns(rng)
    rng.shuffle(turns)
    template = ChatTemplate()
    texts = []
    for first, second in pairwise([*turns, turns[0]]):
        # One conversation in eight has a second turn, so that follow-ups work too.
        conversation = [first, second] if rng.random() < 0.125 else [first]
        system = rng.choice(SYSTEM_PROMPTS) if rng.random() < 0.15 else ""
        texts.append(template.render(conversation, system))
    return texts


def document_turns(document: Document, rng: random.Random) -> list[Turn]:
    """Return this pass's questions about one document; popular ones get more of them."""
    answer = describe(document)
    if not document.is_public or not answer:
        return []
    questions = {"module": MODULE_QUESTIONS, "topic": TOPIC_QUESTIONS}
    phrasings = questions.get(document.kind, CODE_QUESTIONS)
    name = document.name.lower() if document.kind == "topic" else document.name
    count = 2 if document.is_popular or document.kind == "module" else 1
    turns = [(ask.format(name=name), answer) for ask in rng.sample(phrasings, count)]
    if document.signature and rng.random() < (0.7 if document.is_popular else 0.3):
        call = f"Call it as `{document.name}{document.signature}`."
        turns.append((rng.choice(USAGE_QUESTIONS).format(name=name), f"{call} {answer}"))
    if example := _example(document):
        turns.append((rng.choice(EXAMPLE_QUESTIONS).format(name=name), example))
    return turns


def describe(document: Document) -> str:
    """Return the answer to "What does it do?": where it lives, then its first paragraphs."""
    paragraphs = [p for p in document.text.split("\n\n") if not _is_noise(p)]
    summary = ""
    for paragraph in paragraphs:
        if summary and len(summary) + len(paragraph) > 380:
            break
        summary = f"{summary}\n\n{paragraph}" if summary else paragraph
    summary = _cut_at_sentence(summary.strip(), limit=600)
    if len(summary) < 20:
        return ""
    summary = summary[0].upper() + summary[1:] + ("" if summary[-1] in ".!?:`)\"'" else ".")
    return f"{_opening(document)}{summary}"


def _opening(document: Document) -> str:
    if document.kind == "topic":
        return ""
    if document.kind == "module":
        return f"{document.name} is a module of Python's standard library. "
    home = "is built into Python" if document.source == "builtins" else f"is in {document.source}"
    if document.kind == "method":
        owner = document.name.rsplit(".", 1)[0]
        return f"{document.name} is a method of {owner}. "
    article = "class" if document.kind == "class" else "function"
    if document.source == "builtins":
        return f"{document.name} is a {article} that {home}. "
    return f"{document.name} is a {article} of the {document.source} module. "


def _is_noise(paragraph: str) -> bool:
    """True for grammar rules, doctests, tables and bare signatures: no sentences for an answer."""
    letters = sum(char.isalpha() or char == " " for char in paragraph)
    is_signature = re.fullmatch(r"[\w.]+\(.*\)( -+> .*)?", paragraph)
    marks = ("::=", ">>>", "----", "====", " -> ", "--> ")
    is_marked = any(mark in paragraph for mark in marks) or paragraph.endswith("::")
    is_marked = is_marked or re.search(r"^ {6,}", paragraph, re.MULTILINE) is not None
    return bool(is_signature) or is_marked or letters < 0.8 * len(paragraph)


def _cut_at_sentence(text: str, limit: int) -> str:
    if len(text) <= limit:
        return text
    head = text[:limit]
    end = max(head.rfind(". "), head.rfind(".\n"))
    return head[: end + 1] if end > 60 else ""


def _example(document: Document) -> str:
    """Return the first doctest of the document as a fenced block, if it has a short one."""
    found = re.search(r"(?:^ *>>> .+\n?(?:^ *\S.*\n?)*)", document.text, re.MULTILINE)
    if not found or not 15 < len(found[0]) < 500:
        return ""
    code = "\n".join(line.strip() for line in found[0].strip().splitlines())
    return f"Here is an example of {document.name}:\n\n```python\n{code}\n```"


def written_turns(rng: random.Random) -> list[Turn]:
    """Return one pass of the hand-written questions, each intent in several phrasings."""
    turns: list[Turn] = []
    for questions, answers in small_talk.INTENTS:
        chosen = rng.choices(questions, k=16)
        turns += [(_vary(question, rng), rng.choice(answers)) for question in chosen]
    for names, answers in concepts.CONCEPTS:
        for ask in rng.choices(GENERAL_QUESTIONS, k=10):
            question = ask.format(name=rng.choice(names))
            turns.append((_vary(question, rng), rng.choice(answers)))
    for question, answer in concepts.HOW_TO:
        turns += [(_vary(question, rng), answer) for _ in range(8)]
    for ask in small_talk.UNKNOWN_QUESTIONS:
        for subject in rng.sample(small_talk.UNKNOWN_SUBJECTS, 12):
            answer = rng.choice(small_talk.UNKNOWN_ANSWERS)
            turns.append((_vary(ask.format(subject=subject), rng), answer))
    for question in small_talk.OFF_TOPIC_QUESTIONS:
        answer = rng.choice(small_talk.UNKNOWN_ANSWERS)
        turns += [(_vary(question, rng), answer) for _ in range(6)]
    return turns


def _vary(question: str, rng: random.Random) -> str:
    """Type the question as people do: without capitals or the last mark, or with a please."""
    chance = rng.random()
    if chance < 0.10:
        return question.lower()
    if chance < 0.20:
        return question.rstrip("?.!")
    if chance < 0.25:
        return f"Please tell me: {question}"
    if chance < 0.30:
        return f"Hi! {question}"
    return question


def _title(name: str) -> str:
    return name[0].upper() + name[1:]
