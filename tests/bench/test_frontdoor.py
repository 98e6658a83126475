"""The front-door benchmark: prompts, its reading of answers, its tables, and one small run."""

from __future__ import annotations

import asyncio
import json
import sys
from collections import Counter

import pytest

from baton.cli.topology import DEMO_MODEL, ROOT
from bench.failure import BenchFailed
from bench.frontdoor.cells import GROUPS, Cell, choose_cells
from bench.frontdoor.http_client import HttpClients, check_answers, make_requests
from bench.frontdoor.measure import GroupResult, Measured
from bench.frontdoor.messages import Door, Load, Seen, Shape
from bench.frontdoor.prompts import make_prompts, token_ids
from bench.frontdoor.tables import tables
from bench.sampler import print_profile

TOKENIZER = DEMO_MODEL / "tokenizer.json"
CHUNK = b'data: {"choices":[{"text":"%s","finish_reason":%s}]}\n\n'
USAGE = b'data: {"choices":[],"usage":{"prompt_tokens":16,"completion_tokens":%d}}\n\n'


def body_of(*events: bytes) -> bytes:
    """An answer's bytes, one HTTP chunk per event."""
    chunks = [b"%x\r\n%s\r\n" % (len(event), event) for event in (*events, b"data: [DONE]\n\n")]
    head = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n"
    return head + b"".join(chunks) + b"0\r\n\r\n"


def answer_of(num_tokens: int) -> bytes:
    """A whole answer."""
    tokens = [CHUNK % (b"a", b"null")] * (num_tokens - 1)
    return body_of(*tokens, CHUNK % (b"b", b'"length"'), USAGE % num_tokens)


def load_of(door: Door, address: str, *, num_requests: int = 8) -> Load:
    """Sixteen tokens in, three out."""
    return Load(door, (address,), "demo", TOKENIZER, Shape(16, 3), num_requests, 4, seed=1)


def test_prompts_have_their_length_and_share_nothing_but_what_they_are_to_share():
    prompts = make_prompts(TOKENIZER, Shape(64, 1, shared_len=32), 5, seed=1)

    ids = [token_ids(TOKENIZER, prompt) for prompt in prompts]
    assert {len(each) for each in ids} == {64}
    assert len({tuple(each[:32]) for each in ids}) == 1
    assert len({tuple(each[32:48]) for each in ids}) == 5


def test_other_seeds_make_other_prompts():
    one, two = (make_prompts(TOKENIZER, Shape(16, 1), 3, seed) for seed in (1, 2))

    assert not set(one) & set(two)


@pytest.mark.parametrize("door", [Door.POOLED, Door.QUICK, Door.FRESH])
async def test_clients_bring_every_request_and_count_what_comes_in_pieces(door):
    connections: Counter[str] = Counter()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        connections["all"] += 1
        while head := await reader.readuntil(b"\r\n\r\n"):
            length = int(head.lower().partition(b"content-length: ")[2].partition(b"\r\n")[0])
            asked = json.loads(await reader.readexactly(length))
            assert (asked["max_tokens"], asked["ignore_eos"]) == (3, True)
            answer = answer_of(3)
            for at in range(0, len(answer), 7):
                writer.write(answer[at : at + 7])
                await writer.drain()
            if door is Door.FRESH:
                break
        writer.close()

    server = await asyncio.start_server(_until_gone(serve), "127.0.0.1")
    host, port = server.sockets[0].getsockname()
    load = load_of(door, f"{host}:{port}")
    requests = make_requests(load)
    async with server:
        answers = await asyncio.to_thread(lambda: HttpClients(load).run(requests))

    assert (len(answers.ttfts_s), answers.num_tokens, answers.num_events) == (8, 24, 24)
    assert connections["all"] == (8 if door is Door.FRESH else 4)
    check_answers(answers.raw, load.shape)


def _until_gone(serve):
    async def handle(reader, writer):
        try:
            await serve(reader, writer)
        except (asyncio.IncompleteReadError, ConnectionError):
            writer.close()

    return handle


@pytest.mark.parametrize(
    "answer",
    [
        body_of(CHUNK % (b"a", b'"stop"'), USAGE % 3),
        body_of(CHUNK % (b"a", b'"length"'), USAGE % 2),
        body_of(CHUNK % (b"", b'"length"'), USAGE % 3),
        body_of(CHUNK % (b"a", b'"length"')),
    ],
    ids=["another reason", "another length", "no text", "no usage"],
)
def test_answers_that_are_not_as_asked_end_the_run(answer):
    with pytest.raises(BenchFailed):
        check_answers([answer], Shape(16, 3))


def test_cells_are_chosen_by_pattern_and_an_unknown_one_is_refused():
    chosen = choose_cells(["agg2/64/*/grpc"], is_quick=False)

    assert {cell.door for cell in chosen} == {Door.GRPC}
    assert len(chosen) == 5
    with pytest.raises(BenchFailed, match="agg9"):
        choose_cells(["agg9/*"], is_quick=False)


def measured_of(
    target: str, shape: Shape, gateway_s: float, *, group: int = 1, num_clients: int = 64
) -> Measured:
    """A hundred requests in a second."""
    cell = Cell(GROUPS[group], num_clients, shape, Door.QUICK, 100)
    seen = Seen((0.010,) * 100, 100 * shape.output_len, 100, wall_s=1.0, cpu_s=0.25)
    return Measured(cell, target, [seen], [{"gateway": gateway_s, "decode": 0.1}])


def rows_of(title: str, *measured: Measured) -> list[dict[str, object]]:
    """The rows of the table whose title begins so."""
    result = GroupResult("agg2", list(measured))
    table = next(table for table in tables([result]) if table.title.startswith(title))
    return [dict(zip(table.columns, row, strict=True)) for row in table.rows]


def test_cpu_is_told_per_thousand_requests_and_per_streamed_token():
    short, long = (
        measured_of("Baton", Shape(128, out), cpu) for out, cpu in ((1, 0.1), (64, 0.163))
    )

    row = rows_of("64 clients", short, long)[0]
    per_token = rows_of("CPU per streamed token", short, long)[0]
    assert (row["gateway CPU s"], row["client CPU s"], row["client %"]) == (1.0, 2.5, 25)
    assert row["prefill CPU s"] is None
    assert per_token["gateway µs"] == pytest.approx(10.0)


def test_ratios_are_drawn_against_a_peer_of_the_same_run_only():
    ours, theirs = measured_of("Baton", Shape(128, 1), 0.2), measured_of("Peer", Shape(128, 1), 0.1)

    assert rows_of("Baton over the peer", ours, theirs)[0]["gateway CPU"] == 2.0
    assert rows_of("No peer", ours)[0]["Dynamo, on another machine"] == "1,055"


def test_a_profile_names_functions_by_their_own_time_without_loop_and_imports(tmp_path, capsys):
    from rich.console import Console

    path = tmp_path / "profile.txt"
    path.write_text(
        "a.py:main;base_events.py:BaseEventLoop.run_forever;b.py:serve;c.py:encode 3000\n"
        "a.py:main;importlib._bootstrap>:_find_and_load;x.py:load 9000\n(sampler) 500\n"
    )

    print_profile(path, "Gateway", Console(width=120))

    shown = capsys.readouterr().out
    assert "c.py:encode" in shown
    assert "0.00 s of CPU" in shown
    assert "x.py" not in shown
    assert "run_forever" not in shown


@pytest.mark.cluster
async def test_a_small_run_measures_and_writes_its_tables(tmp_path):
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        *("-m", "bench.frontdoor", "--quick", f"--out={tmp_path}", "--profile"),
        *("--only=agg2/*/128/1/quick", "--only=agg2/64/128/1/grpc", "--only=agg2/64/128/1/session"),
        cwd=ROOT,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    out, _ = await process.communicate()

    assert process.returncode == 0, out.decode()
    report = json.loads((tmp_path / "frontdoor-part-quick-profiled.json").read_text())
    titles = [table["title"] for table in report["parts"][0]["tables"]]
    assert [title.partition(":")[0] for title in titles[:2]] == [
        "One client",
        "64 clients, closed loop",
    ]
    assert "peer skipped" in out.decode()
    assert "Gateway of agg2: CPU by function" in out.decode()
