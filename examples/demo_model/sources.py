"""Where the training text comes from: the documentation inside the Python distribution.

Nothing is downloaded. Library files are parsed, never run; only modules written in C, whose
docstrings exist nowhere else, are imported.
"""

from __future__ import annotations

import ast
import hashlib
import importlib
import inspect
import re
import sysconfig
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from pydoc_data.topics import topics
from types import ModuleType

SKIPPED_FOLDERS = (
    "site-packages", "test", "tests", "idle_test", "turtledemo", "encodings", "_vendor",
    "idlelib", "lib2to3", "distutils",
)  # fmt: skip
SKIPPED_PREFIXES = ("_sysconfigdata", "__phello__", "pydoc_data", "_bootstrap_python")

# Private or internal files whose public name is the one people ask about.
PUBLIC_NAMES = {
    "posixpath": "os.path",
    "_pydecimal": "decimal",
    "_pyio": "io",
    "_collections_abc": "collections.abc",
    "json.encoder": "json",
    "json.decoder": "json",
    "importlib._bootstrap": "importlib",
    "concurrent.futures._base": "concurrent.futures",
    "concurrent.futures.thread": "concurrent.futures",
    "concurrent.futures.process": "concurrent.futures",
    "xml.etree.ElementTree": "xml.etree.ElementTree",
}
# Packages whose submodules re-export into the package: asyncio.tasks.gather is asyncio.gather.
FLAT_PACKAGES = ("asyncio", "unittest", "multiprocessing")

# Documented in C, so there is no source file to parse. Importing them has no side effects.
C_MODULES = (
    "builtins", "math", "cmath", "itertools", "functools", "operator", "time", "sys", "os",
    "collections", "zlib", "array", "bisect", "heapq", "struct", "datetime", "select", "socket",
    "signal", "gc", "marshal", "unicodedata", "binascii", "atexit", "re", "io", "random",
    "hashlib", "csv", "decimal", "threading", "pickle", "contextvars", "weakref", "string",
    "statistics", "errno", "mmap", "fcntl", "resource", "queue", "types", "abc", "ast",
)  # fmt: skip

# Where C defines what a Python module of another name offers.
C_HOMES = {"os": "posix", "threading": "_thread", "collections": "_collections"}

# The modules a newcomer asks about: repeated more often in training and never held out.
POPULAR_MODULES = frozenset(
    (
        "builtins", "argparse", "array", "ast", "asyncio", "base64", "bisect", "calendar",
        "collections", "collections.abc", "concurrent.futures", "configparser",
        "contextlib", "copy", "csv", "dataclasses", "datetime", "decimal", "difflib",
        "enum", "fnmatch", "fractions", "functools", "glob", "gzip", "hashlib", "heapq",
        "html", "http.server", "importlib", "inspect", "io", "itertools", "json", "logging",
        "math", "multiprocessing", "operator", "os", "os.path", "pathlib", "pickle",
        "pprint", "queue", "random", "re", "secrets", "shelve", "shlex", "shutil", "signal",
        "socket", "sqlite3", "statistics", "string", "struct", "subprocess", "sys",
        "tempfile", "textwrap", "threading", "time", "timeit", "traceback", "typing",
        "unittest", "unittest.mock", "urllib.request", "urllib.parse", "uuid", "warnings",
        "weakref", "zipfile", "zlib",
    )
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Document:
    """One documented thing: a module, class, function, method or language topic."""

    name: str
    kind: str
    source: str
    """Module or topic it came from; the held-out split is made on this."""
    text: str
    signature: str = ""

    @property
    def is_popular(self) -> bool:
        return self.kind == "topic" or self.source in POPULAR_MODULES

    @property
    def is_well_known(self) -> bool:
        """True for what a newcomer asks about: topics, built-ins, the top of popular modules."""
        if self.kind == "topic" or self.source == "builtins":
            return True
        return self.is_popular and self.is_public and self.kind != "method"

    @property
    def is_public(self) -> bool:
        return not any(part.startswith("_") for part in self.name.split("."))

    @property
    def is_held_out(self) -> bool:
        """True for about one source in fourteen, the same ones on every machine."""
        digest = hashlib.sha256(self.source.encode()).digest()
        return self.source not in POPULAR_MODULES and digest[0] < 18


def read_documents() -> list[Document]:
    """Return every document, one per name, in a stable order."""
    by_name: dict[str, Document] = {}
    for document in (*_read_library(), *_read_c_modules(), *_read_topics()):
        kept = by_name.get(document.name)
        if kept is None or len(kept.text) < len(document.text):
            by_name[document.name] = document
    return sorted(by_name.values(), key=lambda document: document.name)


def tidy(text: str) -> str:
    """Join wrapped prose lines and drop reST marks, so that the model learns sentences.

    Indented blocks, lists and doctests keep their line breaks.
    """
    text = re.sub(r":[a-z:]+:`~?([^`]*)`", r"`\1`", text.expandtabs(4)).replace("``", "`")
    paragraphs = re.split(r"\n\s*\n", text.strip("\n"))
    return "\n\n".join(_join_lines(paragraph) for paragraph in paragraphs if paragraph.strip())


def _join_lines(paragraph: str) -> str:
    lines = [re.sub(r"(?<=[.?!])  +", " ", line.rstrip()) for line in paragraph.splitlines()]
    is_prose = len(lines) > 1 and all(re.match(r"[A-Za-z\"'`(*:\[]", line) for line in lines)
    has_marks = any(
        re.match(r"(\* |>>> |-|[\w, ]+ -> )|.*(::=|  -- | {3,})", line) for line in lines
    )
    is_wrapped = all(len(line) > 35 for line in lines[:-1])
    return " ".join(lines) if is_prose and is_wrapped and not has_marks else "\n".join(lines)


def _read_library() -> Iterator[Document]:
    root = Path(sysconfig.get_path("stdlib"))
    for path in sorted(root.rglob("*.py")):
        relative = path.relative_to(root)
        if any(part in SKIPPED_FOLDERS for part in relative.parts):
            continue
        if relative.name.startswith(SKIPPED_PREFIXES) or "config-" in relative.as_posix():
            continue
        try:
            tree = ast.parse(path.read_text(encoding="utf-8"))
        except (SyntaxError, UnicodeDecodeError):
            continue  # a few library files exist to be broken: they test the compiler
        yield from _read_module(tree, _public_module_name(relative))


def _public_module_name(relative: Path) -> str:
    parts = relative.with_suffix("").parts
    name = ".".join(parts[:-1] if parts[-1] == "__init__" else parts)
    if name.split(".")[0] in FLAT_PACKAGES and name != "unittest.mock":
        return name.split(".")[0]
    return PUBLIC_NAMES.get(name, name)


def _read_module(tree: ast.Module, module: str) -> Iterator[Document]:
    if docstring := ast.get_docstring(tree):
        yield Document(module, "module", module, tidy(docstring))
    yield from _read_members(tree, prefix=module, module=module)


def _read_members(
    parent: ast.Module | ast.ClassDef, prefix: str, module: str
) -> Iterator[Document]:
    for node in parent.body:
        if not isinstance(node, (ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)):
            continue
        name = f"{prefix}.{node.name}"
        is_class = isinstance(node, ast.ClassDef)
        kind = "class" if is_class else "method" if isinstance(parent, ast.ClassDef) else "function"
        docstring = ast.get_docstring(node)
        if docstring and len(docstring) > 15:
            signature = "" if isinstance(node, ast.ClassDef) else _signature(node)
            yield Document(name, kind, module, tidy(docstring), signature)
        if isinstance(node, ast.ClassDef):
            yield from _read_members(node, prefix=name, module=module)


def _signature(node: ast.FunctionDef | ast.AsyncFunctionDef) -> str:
    arguments = re.sub(r"^(self|cls|mcls)(, |$)", "", ast.unparse(node.args))
    return f"({arguments})" if len(arguments) < 120 else ""


def _read_c_modules() -> Iterator[Document]:
    for module_name in C_MODULES:
        module = importlib.import_module(module_name)
        for name, member in sorted(vars(module).items()):
            if name.startswith("_") or not _is_home(module_name, member):
                continue
            if inspect.isroutine(member) or (inspect.isclass(member) and not _has_source(member)):
                yield from _read_c_object(module_name, name, member)


def _read_c_object(module: str, name: str, member: object) -> Iterator[Document]:
    prefix = name if module == "builtins" else f"{module}.{name}"
    docstring = inspect.getdoc(member)
    if docstring and len(docstring) > 15:
        kind = "class" if isinstance(member, type) else "function"
        yield Document(prefix, kind, module, tidy(docstring), _c_signature(member))
    if not isinstance(member, type) or issubclass(member, BaseException):
        return  # an exception's methods are object's, over and over
    for method_name, method in sorted(vars(member).items()):
        if method_name.startswith("_") or not (
            callable(method) or inspect.isdatadescriptor(method)
        ):
            continue
        method_doc = getattr(method, "__doc__", None)
        if isinstance(method_doc, str) and len(method_doc) > 15:
            signature = _c_signature(method)
            yield Document(f"{prefix}.{method_name}", "method", module, tidy(method_doc), signature)


def _is_home(module: str, member: object) -> bool:
    """True if the member was defined here: `statistics.Decimal` is only imported there."""
    home = str(getattr(member, "__module__", None) or module)
    homes = {module, f"_{module}", C_HOMES.get(module, module)}
    return (home in homes or module == "builtins") and not isinstance(member, ModuleType)


def _has_source(member: type) -> bool:
    return any(isinstance(value, type(_has_source)) for value in vars(member).values())


def _c_signature(member: object) -> str:
    raw = getattr(member, "__text_signature__", None) or ""
    return re.sub(r"\$\w+(, )?|/(, )?", "", raw).replace(", )", ")").replace("(, ", "(")


def _read_topics() -> Iterator[Document]:
    """Cut each reference topic at its underlined headings: one document per section."""
    heading = re.compile(r"^(?P<title>\S.*)\n(?:\*{3,}|={3,}|-{3,}|~{3,})$", re.MULTILINE)
    for key, topic in sorted(topics.items()):
        marks = list(heading.finditer(topic))
        for mark, following in zip(marks, [*marks[1:], None], strict=True):
            body = topic[mark.end() : following.start() if following else len(topic)]
            title = mark["title"].strip().replace('"', "")
            if len(body.strip()) > 60:
                yield Document(title, "topic", f"topic:{key}", tidy(body.replace("“", '"')))
