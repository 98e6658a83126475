"""The manifests as a cluster would get them, and the pods in them as processes would see them."""

from __future__ import annotations

import importlib
import inspect
import re
import shutil
import subprocess
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from decimal import ROUND_CEILING, Decimal
from pathlib import Path
from typing import Any, Self

import pytest
import yaml

from baton.rpc.settings import ServiceSettings

ROOT = Path(__file__).resolve().parents[2]
KUBERNETES = ROOT / "deploy" / "kubernetes"
SERVICES = ("gateway", "prefill", "decode", "kvstore")
VARIANTS = ("base", "overlays/gpu", "overlays/mesh", "overlays/shm")
POD_NAME, POD_IP, POD_NAMESPACE = "pod-0", "10.1.2.3", "space"
_FIELDS = {
    "status.podIP": POD_IP,
    "metadata.name": POD_NAME,
    "metadata.namespace": POD_NAMESPACE,
}
_UNITS = {"": Decimal(1), "m": Decimal("0.001"), "Mi": Decimal(1 << 20), "Gi": Decimal(1 << 30)}

Node = dict[str, Any]


def quantity(text: str) -> Decimal:
    """Kubernetes' `2`, `500m`, `2100Mi` as a number."""
    match = re.fullmatch(r"([0-9.]+)([A-Za-z]*)", text)
    assert match is not None
    return Decimal(match[1]) * _UNITS[match[2]]


def settings_type(service: str) -> type[ServiceSettings]:
    """The service's own Settings class."""
    module = importlib.import_module(f"services.{service}.settings")
    found = [
        value
        for value in vars(module).values()
        if inspect.isclass(value)
        and issubclass(value, ServiceSettings)
        and value.__module__ == module.__name__
    ]
    assert len(found) == 1
    return found[0]


def read_env_file(path: Path) -> dict[str, str]:
    """The file as kustomize reads it."""
    lines = [line for line in path.read_text().splitlines() if line and not line.startswith("#")]
    return dict(line.split("=", 1) for line in lines)


@dataclass(frozen=True)
class Container:
    """A container of ours and the pod around it."""

    service: str
    spec: Node
    pod: Node
    """The pod template's spec."""
    workload: Node
    configs: Mapping[str, Mapping[str, str]]

    @property
    def environment(self) -> dict[str, str]:
        """Its variables, in a pod with the name and address above."""
        values: dict[str, str] = {}
        for source in self.spec["envFrom"]:
            values |= self.configs[source["configMapRef"]["name"]]
        for variable in self.spec.get("env", ()):
            values[variable["name"]] = self._value(variable, values)
        return values

    def _value(self, variable: Node, earlier: Mapping[str, str]) -> str:
        if "value" in variable:
            # As in a cluster: variables that come later, or never, stay as they are written.
            return re.sub(r"\$\((\w+)\)", lambda m: earlier.get(m[1], m[0]), str(variable["value"]))
        source = variable["valueFrom"]
        if "fieldRef" in source:
            return _FIELDS[source["fieldRef"]["fieldPath"]]
        kind, resource = source["resourceFieldRef"]["resource"].split(".")
        amount = quantity(self.spec["resources"][kind][resource])
        return str(amount.to_integral_value(ROUND_CEILING))

    def settings(self, monkeypatch: pytest.MonkeyPatch, model: Path) -> ServiceSettings:
        """What the service makes of its environment, with an existing folder for its model."""
        prefix = f"BATON_{self.service.upper()}_"
        for name, value in self.environment.items():
            monkeypatch.setenv(name, value)
        if f"{prefix}MODEL" in self.environment:
            monkeypatch.setenv(f"{prefix}MODEL", str(model))
        return settings_type(self.service)()

    @property
    def ports(self) -> dict[str, int]:
        """Its ports by what they are for; `grpc-prefill` is for `grpc`."""
        return {
            port["name"].removesuffix(f"-{self.service}"): port["containerPort"]
            for port in self.spec["ports"]
        }

    def mounted(self, path: str) -> Node | None:
        """The volume that holds a path, if any does."""
        for mount in self.spec["volumeMounts"]:
            if Path(path).is_relative_to(mount["mountPath"]):
                volumes: list[Node] = self.pod["volumes"]
                return next(volume for volume in volumes if volume["name"] == mount["name"])
        return None


@dataclass(frozen=True)
class Manifests:
    """All documents of one kustomization."""

    documents: tuple[Node, ...]

    @classmethod
    def of_base(cls) -> Self:
        """The base, put together without kustomize: plain files, env files and tags."""
        folder = KUBERNETES / "base"
        plan = yaml.safe_load((folder / "kustomization.yaml").read_text())
        texts = [(folder / name).read_text() for name in plan["resources"]]
        tags = {image["name"]: image["newTag"] for image in plan["images"]}
        documents = [
            {
                "apiVersion": "v1",
                "kind": "ConfigMap",
                "metadata": {"name": entry["name"]},
                "data": read_env_file(folder / entry["envs"][0]),
            }
            for entry in plan["configMapGenerator"]
        ]
        documents += [doc for text in texts for doc in yaml.safe_load_all(text)]
        for document in documents:
            for container in _pod(document).get("containers", ()):
                if container["image"] in tags:
                    container["image"] += f":{tags[container['image']]}"
        return cls(tuple(documents))

    @classmethod
    def rendered(cls, folder: Path) -> Self:
        """As kubectl's kustomize makes it."""
        result = subprocess.run(
            ["kubectl", "kustomize", folder], capture_output=True, text=True, check=False
        )
        assert result.returncode == 0, result.stderr[:2000]
        return cls(tuple(yaml.safe_load_all(result.stdout)))

    def of_kind(self, *kinds: str) -> list[Node]:
        """The documents of these kinds."""
        return [document for document in self.documents if document["kind"] in kinds]

    @property
    def workloads(self) -> list[Node]:
        """What makes pods."""
        return self.of_kind("Deployment", "StatefulSet")

    def workload(self, name: str) -> Node:
        """The workload of this name."""
        return next(doc for doc in self.workloads if doc["metadata"]["name"] == name)

    @property
    def containers(self) -> list[Container]:
        """The containers that run our services."""
        return list(self._containers())

    def _containers(self) -> Iterator[Container]:
        configs = {doc["metadata"]["name"]: doc["data"] for doc in self.of_kind("ConfigMap")}
        for workload in self.workloads:
            pod = _pod(workload)
            for spec in pod["containers"]:
                if spec["image"].startswith("baton-"):
                    service = spec["image"].partition(":")[0].removeprefix("baton-")
                    yield Container(service, spec, pod, workload, configs)

    def container(self, service: str) -> Container:
        """The only container of a service."""
        (found,) = [item for item in self.containers if item.service == service]
        return found

    def selected(self, selector: Mapping[str, str]) -> list[Node]:
        """The workloads whose pods carry all these labels."""
        return [
            workload
            for workload in self.workloads
            if selector.items() <= workload["spec"]["template"]["metadata"]["labels"].items()
        ]


def _pod(document: Node) -> Node:
    found: Node = document.get("spec", {}).get("template", {}).get("spec", {})
    return found


def load(variant: str) -> Manifests:
    """The base everywhere; overlays where there is a kubectl to put them together."""
    if variant == "base":
        return Manifests.of_base()
    if shutil.which("kubectl") is None:
        pytest.skip("kubectl is not installed; it puts overlays together")
    return Manifests.rendered(KUBERNETES / variant)
