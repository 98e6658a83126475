"""The Dockerfile names what exists. No engine builds it here: its lines are read, not run."""

from __future__ import annotations

import json
import re
import shlex
import tomllib
from dataclasses import dataclass, field
from fnmatch import fnmatch

import pytest
from manifests import ROOT, SERVICES, load

from tools.install import TORCH

DOCKERFILE = ROOT / "deploy" / "Dockerfile"
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
USER = 10001


@dataclass(frozen=True)
class Stage:
    """From one FROM to the next."""

    name: str
    origin: str
    lines: list[tuple[str, str]] = field(default_factory=list)
    """Instruction and the rest of the line."""

    def all(self, instruction: str) -> list[str]:
        """The arguments of every such instruction."""
        return [rest for name, rest in self.lines if name == instruction]


def read_stages() -> dict[str, Stage]:
    text = re.sub(r"^\s*#.*\n", "", DOCKERFILE.read_text(), flags=re.MULTILINE)
    stages: dict[str, Stage] = {}
    for line in text.replace("\\\n", " ").splitlines():
        instruction, _, rest = line.partition(" ")
        if instruction == "FROM":
            origin, _, name = rest.split()
            stages[name] = Stage(name, origin)
        elif line and stages:
            stages[name].lines.append((instruction, rest))
    return stages


STAGES = read_stages()


def ancestry(name: str) -> list[Stage]:
    """The stage and those that it is built from, itself first."""
    stage = STAGES[name]
    return [stage, *(ancestry(stage.origin) if stage.origin in STAGES else ())]


def ingredients(name: str) -> set[str]:
    """All stages whose files end up in this one."""
    copied = [word for stage in ancestry(name) for word in stage.all("COPY")]
    sources = [match[1] for word in copied if (match := re.match(r"--from=(\S+)", word))]
    names = {stage.name for stage in ancestry(name)}
    return names.union(*(ingredients(source) for source in sources))


def last(name: str, instruction: str) -> str:
    """What holds in the image: the last such instruction of the nearest stage that has one."""
    return next(found[-1] for stage in ancestry(name) if (found := stage.all(instruction)))


def is_sent(path: str) -> bool:
    """Whether .dockerignore lets the path into the build."""
    sent = True
    for line in (ROOT / ".dockerignore").read_text().splitlines():
        pattern = line.removeprefix("!").removeprefix("**/")
        if pattern and not pattern.startswith("#") and fnmatch(path, pattern):
            sent = line.startswith("!")
    return sent


def test_stages_are_built_from_stages_before_them():
    seen = {"${PYTHON_IMAGE}"}
    for stage in STAGES.values():
        assert stage.origin in seen
        for word in stage.all("COPY"):
            if match := re.match(r"--from=(\S+)", word):
                assert match[1] in seen
        seen.add(stage.name)


def test_copied_files_exist_and_are_sent_to_the_build():
    copies = [word for stage in STAGES.values() for word in stage.all("COPY")]
    sources = [word.split()[0] for word in copies if not word.startswith("--from")]

    assert sources
    for source in sources:
        assert (ROOT / source).exists()
        assert is_sent(source)
    assert not is_sent(".git")
    assert not is_sent(".venv")


@pytest.mark.parametrize("service", SERVICES)
def test_image_runs_its_service_as_the_user_of_the_manifests(service):
    command = json.loads(last(service, "ENTRYPOINT"))

    assert command == ["python", "-m", f"services.{service}"]
    assert (ROOT / "services" / service / "__main__.py").exists()
    pod = load("base").container(service).pod
    assert last(service, "USER") == f"{USER}:{USER}"
    assert pod["securityContext"]["runAsUser"] == USER


@pytest.mark.parametrize("service", SERVICES)
def test_image_exposes_the_ports_of_the_manifests(service):
    ports = load("base").container(service).ports

    assert set(last(service, "EXPOSE").split()) == {str(port) for port in ports.values()}


@pytest.mark.parametrize("service", SERVICES)
def test_torch_is_where_it_is_needed_and_nowhere_else(service):
    runs = " ".join(run for name in ingredients(service) for run in STAGES[name].all("RUN"))
    needs_torch = service in ("prefill", "decode")

    assert ("${TORCH}" in runs) == needs_torch
    assert ("[engine]" in runs) == needs_torch
    copies = [word for stage in ancestry(service) for word in stage.all("COPY")]
    assert ("kernels kernels" in copies) == needs_torch


def test_every_installation_is_constrained_by_the_lock():
    installs = [
        run for stage in STAGES.values() for run in stage.all("RUN") if "pip install" in run
    ]

    assert installs
    for run in installs:
        words = shlex.split(run)
        assert words[words.index("--constraint") + 1] == "requirements.lock"


def test_extras_are_those_of_the_package():
    extras = set(re.findall(r"\.\[(\w+)\]", DOCKERFILE.read_text()))

    assert extras == {"gateway", "engine"}
    assert extras <= PROJECT["optional-dependencies"].keys()


def test_torch_is_the_one_that_make_installs():
    assert f"TORCH={TORCH}" in STAGES["engine-packages"].all("ARG")
