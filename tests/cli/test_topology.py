"""From options to command lines."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

from baton.cli import devices
from baton.cli.errors import CommandError
from baton.cli.running import prepare
from baton.cli.topology import ClusterOptions, Probe, plan


def flag(spec, name: str) -> str:
    return spec.command[spec.command.index(name) + 1]


def test_redis_comes_first_and_gateways_last():
    topology = plan(ClusterOptions(device="cpu", prefill=2, decode=1))

    names = [[spec.name for spec in stage] for stage in topology.stages]
    assert names == [
        ["redis"],
        ["kvstore-0"],
        ["prefill-0", "prefill-1", "decode-0"],
        ["gateway-0"],
    ]
    assert topology.stages[0][0].probe is Probe.REDIS


def test_given_redis_is_used_and_none_started():
    topology = plan(ClusterOptions(device="cpu", redis_url="redis://10.0.0.1:6379"))

    assert topology.of_kind("redis") == []
    assert {flag(spec, "--redis-url") for spec in topology.processes} == {"redis://10.0.0.1:6379"}


def test_all_processes_share_the_started_redis():
    topology = plan(ClusterOptions(device="cpu"))

    redis, *others = topology.processes
    assert {flag(spec, "--redis-url") for spec in others} == {f"redis://{redis.address}/0"}


def test_no_port_is_used_twice():
    topology = plan(ClusterOptions(device="cpu", prefill=4, decode=4, gateways=3, kvstores=2))

    gateway = topology.of_kind("gateway")[0]
    places = [gateway.address, gateway.http_address]
    places += [spec.probe_address for spec in topology.processes]
    places += [spec.metrics_address for spec in topology.processes if spec.metrics_address]
    assert len(places) == len(set(places))


@pytest.mark.parametrize("ports", [(9100, 9200), (0, 0)])
def test_gateways_share_both_ports_and_are_probed_each_on_its_own(ports):
    topology = plan(ClusterOptions(device="cpu", gateways=2, port=ports[0], http_port=ports[1]))

    gateways = topology.of_kind("gateway")
    shared = {(spec.address, flag(spec, "--listen")) for spec in gateways}
    shared_http = {(spec.http_address, flag(spec, "--http-listen")) for spec in gateways}
    assert len(shared) == len(shared_http) == 1
    assert all("--share-port" in spec.command for spec in gateways)
    assert [spec.probe_address for spec in gateways] == [
        flag(spec, "--own-listen") for spec in gateways
    ]
    assert [flag(spec, "--worker-id") for spec in gateways] == ["gateway-0", "gateway-1"]
    assert len({spec.metrics_address for spec in gateways}) == 2
    if all(ports):
        assert (gateways[0].address, gateways[0].http_address) == (
            "127.0.0.1:9100",
            "127.0.0.1:9200",
        )


def test_a_lone_gateway_shares_nothing():
    topology = plan(ClusterOptions(device="cpu", port=9100))

    (gateway,) = topology.of_kind("gateway")
    assert "--share-port" not in gateway.command
    assert gateway.probe_address == gateway.address == "127.0.0.1:9100"


def test_several_gateways_are_refused_where_ports_are_not_spread(monkeypatch):
    monkeypatch.setattr(sys, "platform", "darwin")

    with pytest.raises(CommandError, match="2 gateways would share their ports"):
        prepare(ClusterOptions(device="cpu", gateways=2))


def test_workers_know_all_kvstores():
    topology = plan(ClusterOptions(device="cpu", kvstores=2))

    stores = ",".join(spec.address for spec in topology.of_kind("kvstore"))
    workers = topology.of_kind("prefill") + topology.of_kind("decode")
    assert [flag(spec, "--kvstore") for spec in workers] == [stores, stores]


def test_each_kvstore_has_a_disk_folder_of_its_own():
    options = ClusterOptions(
        device="cpu", kvstores=2, kvstore_disk=Path("/data"), kvstore_disk_bytes="1GiB"
    )

    stores = plan(options).of_kind("kvstore")

    assert [flag(spec, "--disk") for spec in stores] == ["/data/kvstore-0", "/data/kvstore-1"]
    assert {flag(spec, "--disk-bytes") for spec in stores} == {"1GiB"}


def test_workers_go_without_kvstore():
    topology = plan(ClusterOptions(device="cpu", kvstores=0))

    assert all("--kvstore" not in spec.command for spec in topology.processes)
    assert all(stage for stage in topology.stages)


def test_workers_share_the_cores(monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: range(8), raising=False)

    shared = plan(ClusterOptions(device="cpu", prefill=1, decode=2))
    crowded = plan(ClusterOptions(device="cpu", prefill=8, decode=8))
    chosen = plan(ClusterOptions(device="cpu", threads=5))

    threads = [flag(plan.of_kind("decode")[0], "--threads") for plan in (shared, crowded, chosen)]
    assert threads == ["2", "1", "5"]


def test_extra_flags_reach_their_kind_only():
    topology = plan(ClusterOptions(device="cpu", extra={"decode": ["--kv-bytes=1GiB"]}))

    having = [spec.name for spec in topology.processes if "--kv-bytes=1GiB" in spec.command]
    assert having == ["decode-0"]


def use_gpus(monkeypatch, gpus: list[str], cuda: str) -> None:
    monkeypatch.setattr(devices, "visible_gpus", lambda: gpus)
    monkeypatch.setattr(devices, "torch_cuda_version", lambda: cuda)


def test_each_worker_gets_a_gpu_of_its_own_where_there_are_enough(monkeypatch):
    use_gpus(monkeypatch, ["0", "1", "2"], "13.0")

    topology = plan(ClusterOptions(prefill=1, decode=1))

    workers = topology.of_kind("prefill") + topology.of_kind("decode")
    assert [spec.environment["CUDA_VISIBLE_DEVICES"] for spec in workers] == ["0", "1"]
    assert [flag(spec, "--device") for spec in workers] == ["cuda", "cuda"]
    assert topology.remark == ""


def test_workers_share_gpus_with_a_remark_where_there_are_too_few(monkeypatch):
    use_gpus(monkeypatch, ["0", "1"], "13.0")

    topology = plan(ClusterOptions(prefill=1, decode=2))

    workers = topology.of_kind("prefill") + topology.of_kind("decode")
    assert [spec.environment["CUDA_VISIBLE_DEVICES"] for spec in workers] == ["0", "1", "0"]
    assert topology.remark == "3 workers share 2 GPUs"


def test_cpu_build_of_torch_on_a_gpu_machine_runs_on_the_cpu_and_says_so(monkeypatch):
    use_gpus(monkeypatch, ["0"], "")

    topology = plan(ClusterOptions(device="auto"))

    assert topology.device == "cpu"
    assert "torch here is a build without CUDA" in topology.remark


@pytest.mark.parametrize(("gpus", "cuda"), [([], "13.0"), (["0"], "")])
def test_cuda_that_cannot_be_is_refused(monkeypatch, gpus, cuda):
    use_gpus(monkeypatch, gpus, cuda)

    with pytest.raises(CommandError, match="--device cuda cannot be met"):
        plan(ClusterOptions(device="cuda"))


def test_folder_without_model_is_refused(tmp_path):
    with pytest.raises(CommandError, match=r"holds no config\.json"):
        prepare(ClusterOptions(model=tmp_path, device="cpu"))


def test_taken_port_is_named_with_its_flag(tmp_path, taken_port):
    (tmp_path / "config.json").write_text("{}")

    with pytest.raises(CommandError, match=f"port {taken_port} .*--http-port"):
        prepare(ClusterOptions(model=tmp_path, device="cpu", port=0, http_port=taken_port))


def test_cluster_without_decode_worker_is_refused():
    with pytest.raises(CommandError, match="0 decode workers"):
        prepare(ClusterOptions(model=Path("/nowhere"), decode=0))


def test_workers_run_the_engine_that_was_asked_for():
    topology = plan(ClusterOptions(engine="echo"))

    workers = [*topology.of_kind("prefill"), *topology.of_kind("decode")]
    assert [flag(spec, "--engine") for spec in workers] == ["echo", "echo"]
    assert topology.device == "cpu"
    assert not any("--step-times" in spec.command for spec in topology.processes)


def test_emulated_workers_get_a_table_of_step_times():
    topology = plan(ClusterOptions(engine="emulated"))

    (decode,) = topology.of_kind("decode")
    assert Path(flag(decode, "--step-times")).is_file()
