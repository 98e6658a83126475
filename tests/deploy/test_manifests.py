"""Manifests say what the services understand, and agree with each other."""

from __future__ import annotations

import importlib
import os
import re
import tomllib
from collections import Counter
from typing import Any

import pytest
import yaml
from manifests import (
    KUBERNETES,
    POD_IP,
    POD_NAME,
    POD_NAMESPACE,
    ROOT,
    SERVICES,
    Manifests,
    load,
    quantity,
    settings_type,
)

from baton.transfer.shm import HEADER_BYTES

# What a process takes to stop its parts behind its grace: one part may take 10 s.
STOP_SECONDS = 10
# Interpreter and libraries, beside blocks and weights: a worker with a CUDA torch takes 620 MB.
PROCESS_BYTES = 768 << 20
USER = 10001
# Native gRPC probes are stable since the first; the second is the newest with a schema at hand.
KUBERNETES_VERSIONS = ("1.27", "1.37")


def port_of(address: str) -> int:
    return int(address.rpartition(":")[2])


def test_every_file_is_part_of_its_kustomization():
    for folder in [path.parent for path in KUBERNETES.rglob("kustomization.yaml")]:
        plan = yaml.safe_load((folder / "kustomization.yaml").read_text())
        named = {word for word in plan.get("resources", ()) if word.endswith(".yaml")}
        named |= {
            name for entry in plan.get("configMapGenerator", ()) for name in entry.get("envs", ())
        }
        named |= {entry["path"] for entry in plan.get("patches", ()) if "path" in entry}

        assert named == {path.name for path in folder.iterdir()} - {"kustomization.yaml"}
        for word in (*plan.get("components", ()), *plan.get("resources", ())):
            assert (folder / word).exists()


def test_every_service_has_one_workload(manifests):
    assert Counter(item.service for item in manifests.containers) == Counter(SERVICES)


def test_every_variable_names_a_setting(manifests):
    for item in manifests.containers:
        prefix = f"BATON_{item.service.upper()}_"
        ours = {name for name in item.environment if name.startswith("BATON_")}

        fields = {prefix + name.upper() for name in settings_type(item.service).model_fields}
        assert ours - fields == set()


def test_every_setting_is_accepted(manifests, monkeypatch, tmp_path):
    for item in manifests.containers:
        item.settings(monkeypatch, tmp_path)

        assert not any("$(" in value for value in item.environment.values())


def test_ports_are_those_that_processes_listen_on(manifests, monkeypatch, tmp_path):
    for item in manifests.containers:
        settings: Any = item.settings(monkeypatch, tmp_path)
        listened = {"grpc": settings.listen, "metrics": settings.metrics_listen}
        if item.service == "gateway":
            listened["http"] = settings.http_listen

        assert item.ports == {name: port_of(address) for name, address in listened.items()}
        assert all(address.startswith("0.0.0.0:") for address in listened.values())


def test_containers_of_a_pod_share_no_port(manifests):
    for workload in manifests.workloads:
        containers = workload["spec"]["template"]["spec"]["containers"]
        ports = [port for item in containers for port in item["ports"]]

        for key in ("name", "containerPort"):
            assert max(Counter(port[key] for port in ports).values()) == 1


def test_prometheus_is_led_to_the_metrics_port(manifests):
    for workload in manifests.workloads:
        annotations = workload["spec"]["template"]["metadata"].get("annotations", {})
        found = {
            str(item.ports["metrics"]) for item in manifests.containers if item.workload is workload
        }

        assert annotations.get("prometheus.io/port") in (found or {None})


def test_probes_ask_for_a_service_that_the_process_has(manifests):
    for item in manifests.containers:
        protos = importlib.import_module(f"baton.v1.{item.service}_pb2").DESCRIPTOR
        names = {service.full_name for service in protos.services_by_name.values()}

        for probe in ("startupProbe", "readinessProbe", "livenessProbe"):
            assert item.spec[probe]["grpc"]["port"] == item.ports["grpc"]
            assert item.spec[probe]["grpc"]["service"] in names


def test_pods_are_given_the_time_that_processes_take_to_stop(manifests, monkeypatch, tmp_path):
    for item in manifests.containers:
        settings = item.settings(monkeypatch, tmp_path)
        needed = settings.notice_seconds + settings.grace_seconds + STOP_SECONDS

        assert item.pod["terminationGracePeriodSeconds"] >= needed
        # Only gateways stand behind a Service that has to notice; the process itself waits for it.
        assert (settings.notice_seconds > 0) == (item.service == "gateway")
        assert "lifecycle" not in item.spec


def test_selectors_find_the_pods_they_are_meant_for(manifests):
    for workload in manifests.workloads:
        assert manifests.selected(workload["spec"]["selector"]["matchLabels"]) == [workload]
    for service in manifests.of_kind("Service"):
        (workload,) = manifests.selected(service["spec"]["selector"])
        assert workload["metadata"]["name"] == service["metadata"]["name"].removesuffix("-headless")
    budgets = manifests.of_kind("PodDisruptionBudget")
    for budget in budgets:
        (workload,) = manifests.selected(budget["spec"]["selector"]["matchLabels"])
        assert workload["metadata"]["name"] == budget["metadata"]["name"]
    ours = {item.workload["metadata"]["name"] for item in manifests.containers}
    assert {budget["metadata"]["name"] for budget in budgets} == ours


def test_services_lead_to_ports_of_the_same_number(manifests):
    # Headless ones translate nothing, so that the number must be the container's.
    for service in manifests.of_kind("Service"):
        (workload,) = manifests.selected(service["spec"]["selector"])
        containers = workload["spec"]["template"]["spec"]["containers"]
        ports = {port["name"]: port["containerPort"] for c in containers for port in c["ports"]}

        for port in service["spec"]["ports"]:
            assert port["targetPort"] == port["name"]
            assert port["port"] == ports[port["name"]]


def test_stateful_sets_have_their_headless_service(manifests):
    headless = {
        service["metadata"]["name"]
        for service in manifests.of_kind("Service")
        if service["spec"].get("clusterIP") == "None"
    }

    assert {doc["spec"]["serviceName"] for doc in manifests.of_kind("StatefulSet")} <= headless


def test_every_claim_exists(manifests):
    claims = {doc["metadata"]["name"] for doc in manifests.of_kind("PersistentVolumeClaim")}

    for workload in manifests.workloads:
        for volume in workload["spec"]["template"]["spec"].get("volumes", ()):
            if "persistentVolumeClaim" in volume:
                assert volume["persistentVolumeClaim"]["claimName"] in claims


def test_everybody_reads_one_model_from_the_claim(manifests):
    items = [item for item in manifests.containers if item.service != "kvstore"]

    paths = {item.environment[f"BATON_{item.service.upper()}_MODEL"] for item in items}
    assert len(paths) == 1
    for item in items:
        volume = item.mounted(next(iter(paths)))
        assert volume is not None
        assert volume["persistentVolumeClaim"]["claimName"] == "baton-models"


def test_workers_spell_kvstores_alike_and_those_exist(manifests):
    prefill = manifests.container("prefill").environment["BATON_PREFILL_KVSTORE"]
    decode = manifests.container("decode").environment["BATON_DECODE_KVSTORE"]
    kvstore = manifests.container("kvstore")
    spec = kvstore.workload["spec"]

    assert prefill == decode
    names = [f"baton-kvstore-{index}" for index in range(spec["replicas"])]
    port = kvstore.ports["grpc"]
    assert prefill.split(",") == [f"{name}.{spec['serviceName']}:{port}" for name in names]


def test_everybody_knows_the_same_redis(manifests):
    urls = {
        item.environment[f"BATON_{item.service.upper()}_REDIS_URL"] for item in manifests.containers
    }
    (service,) = [s for s in manifests.of_kind("Service") if s["metadata"]["name"] == "baton-redis"]

    assert urls == {f"redis://baton-redis:{service['spec']['ports'][0]['port']}/0"}


def test_workers_announce_an_address_of_their_own_pod(manifests):
    for item in manifests.containers:
        if item.service in ("prefill", "decode"):
            told = item.environment[f"BATON_{item.service.upper()}_ADVERTISE"]
            is_named = item.workload["kind"] == "StatefulSet"
            name = f"{POD_NAME}.{item.workload['spec'].get('serviceName')}.{POD_NAMESPACE}.svc"

            assert told == (name if is_named else POD_IP)


def test_a_kvstore_announces_itself_as_workers_spell_it(manifests):
    kvstore = manifests.container("kvstore")
    service = kvstore.workload["spec"]["serviceName"]

    assert kvstore.environment["BATON_KVSTORE_ADVERTISE"] == f"{POD_NAME}.{service}"


def test_worker_names_are_left_to_processes(manifests):
    # Two containers of one pod share its name; the default adds service and port.
    for item in manifests.containers:
        assert f"BATON_{item.service.upper()}_WORKER_ID" not in item.environment


def test_memory_holds_blocks_and_process(manifests, monkeypatch, tmp_path):
    for item in manifests.containers:
        settings: Any = item.settings(monkeypatch, tmp_path)
        blocks = getattr(settings, "kv_bytes", 0) + getattr(settings, "capacity_bytes", 0)

        assert quantity(item.spec["resources"]["limits"]["memory"]) >= blocks + PROCESS_BYTES


def test_shared_memory_has_room_for_the_arenas_that_want_it(manifests, monkeypatch, tmp_path):
    wanted: dict[str, int] = {}
    for item in manifests.containers:
        settings: Any = item.settings(monkeypatch, tmp_path)
        volume = item.mounted("/dev/shm")
        if "shm" not in getattr(settings, "transports", ()):
            assert volume is None
            continue
        assert settings.device == "cpu"
        assert volume is not None
        assert volume["emptyDir"]["medium"] == "Memory"
        limit = volume["emptyDir"]["sizeLimit"]
        wanted[limit] = wanted.get(limit, 0) + settings.kv_bytes + HEADER_BYTES

    assert all(quantity(limit) >= num_bytes for limit, num_bytes in wanted.items())


def test_pods_have_no_rights_that_they_do_not_need(manifests):
    for workload in manifests.workloads:
        pod = workload["spec"]["template"]["spec"]
        assert pod["automountServiceAccountToken"] is False
        # Service links would set BATON_DECODE_PORT and the like.
        assert pod["enableServiceLinks"] is False
        assert pod["securityContext"]["runAsNonRoot"] is True
        for container in pod["containers"]:
            assert container["securityContext"] == {
                "allowPrivilegeEscalation": False,
                "readOnlyRootFilesystem": True,
                "capabilities": {"drop": ["ALL"]},
            }
    for item in manifests.containers:
        assert item.pod["securityContext"]["runAsUser"] == USER
        assert "emptyDir" in (item.mounted("/tmp") or {})


def test_images_carry_the_version_of_the_package(manifests):
    version = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]

    images = [item.spec["image"] for item in manifests.containers]
    loader = yaml.safe_load((KUBERNETES / "model-loader.yaml").read_text())
    images += [container["image"] for container in loader["spec"]["containers"]]
    assert {image.partition(":")[2] for image in images} == {version}


def test_gpu_overlay_gives_each_worker_one_gpu():
    manifests = load("overlays/gpu")

    for item in manifests.containers:
        is_worker = item.service in ("prefill", "decode")
        limits = item.spec["resources"]["limits"]
        assert limits.get("nvidia.com/gpu") == ("1" if is_worker else None)
        device = item.environment.get(f"BATON_{item.service.upper()}_DEVICE")
        assert device == ("cuda" if is_worker else None)


def test_mesh_overlay_names_the_protocol_of_every_port_of_ours():
    manifests = load("overlays/mesh")

    protocols = {
        (port["name"], port.get("appProtocol"))
        for service in manifests.of_kind("Service")
        for port in service["spec"]["ports"]
    }
    assert protocols == {("grpc", "kubernetes.io/h2c"), ("http", "http"), ("tcp-redis", None)}


@pytest.mark.parametrize("version", KUBERNETES_VERSIONS)
def test_documents_fit_the_schema_of_kubernetes(manifests, version):
    validator = pytest.importorskip(
        "kubernetes_validate",
        reason="kubernetes-validate is not installed; `pip install -e .[deploy]` brings it",
    )
    loader = yaml.safe_load((KUBERNETES / "model-loader.yaml").read_text())

    for document in (*manifests.documents, loader):
        assert validator.validate(document, version, strict=True) == version


def test_overlay_of_the_readme_can_be_put_together(tmp_path):
    load("overlays/gpu")  # skips without kubectl
    readme = (ROOT / "deploy" / "README.md").read_text()
    example = re.findall(r"```yaml\n(.*?)```", readme, re.DOTALL)[0]
    here = os.path.relpath(ROOT, tmp_path.resolve())
    (tmp_path / "kustomization.yaml").write_text(example.replace("- deploy/", f"- {here}/deploy/"))

    decode = Manifests.rendered(tmp_path).workload("baton-decode")

    assert decode["kind"] == "StatefulSet"
    assert decode["spec"]["replicas"] == 4
    container = decode["spec"]["template"]["spec"]["containers"][0]
    assert container["image"] == "my/decode:7"
    assert container["resources"]["limits"]["nvidia.com/gpu"] == "1"
