"""The life of a worker as its operator sees it: start, work, stop, and a broker that comes late."""

from __future__ import annotations

import json
import signal
from pathlib import Path

import pytest
from command_line import TOKEN, CommandLine, Process, alive, descendants, free_port, get, until, url_of

SHOP = """
import sys
from memphis_worker import App, Message
app = App("shop")

@app.handler(station="{station}", group="billing")
async def bill(order: dict) -> None:
    sys.stdout.write("billed %d\\n" % order["id"])

@app.handler(station="{station}", group="shipping")
def ship(order: dict, message: Message) -> None:
    sys.stdout.write("shipped %d\\n" % order["id"])
"""

SLOW = """
import asyncio, time
from memphis_worker import App
app = App("slow")

@app.handler(station="{station}", group="slow")
{kind} slow(body: bytes) -> None:
    print("began", body.decode(), flush=True)
    {sleep}(60)
"""


def lag_of(cli: CommandLine, url: str, station: str) -> dict[str, tuple[int, int]]:
    """Waiting and in flight, by group."""
    process = cli.run("lag", "--json", "--url", url)
    assert process.process.returncode == 0, process.output
    rows = [row for row in json.loads(process.out) if row["station"] == station]
    return {row["group"]: (row["waiting"], row["in_flight"]) for row in rows}


def served_at(worker: Process) -> str:
    """Where metrics and health are."""
    return "http://" + worker.wait_for('"http.listening".*"address": "([^"]+)"').group(1)


def test_a_message_is_sent_handled_by_each_group_and_gone(cli: CommandLine, dev: str) -> None:
    cli.write("shop.py", SHOP.format(station="life"))
    worker = cli.start("run", "shop:app", "--no-http", "--url", dev, "--name", "till-1")
    worker.wait_for("worker.started")
    sent = cli.run("send", "life", '{"id": 1}', "--url", dev, "--header", "source=test")
    assert (sent.process.returncode, sent.out, sent.err) == (0, "life: 1 message confirmed\n", "")
    worker.wait_for("billed 1")
    worker.wait_for("shipped 1")
    lines = "".join(f'{{"id": {i}}}\n' for i in range(2, 102)).encode()
    assert cli.run("send", "life", "-", stdin=lines, env={"MEMPHIS_WORKER_URL": dev}).out == (
        "life: 100 messages confirmed\n"
    )
    worker.wait_for("billed ", times=101)
    worker.wait_for("shipped ", times=101)
    assert worker.stop() == 0
    assert lag_of(cli, dev, "life") == {"billing": (0, 0), "shipping": (0, 0)}
    billed = [int(line.split()[1]) for line in worker.out.splitlines() if line.startswith("billed")]
    assert billed == list(range(1, 102))
    started = next(event for event in worker.events() if event["event"] == "worker.started")
    assert (started["app"], started["worker"], started["level"]) == ("shop", "till-1", "info")


def test_the_same_message_id_is_stored_once(cli: CommandLine, dev: str) -> None:
    env = {"MEMPHIS_WORKER_URL": dev}
    made = cli.run("stations", "create", "ids", "--dedup-enabled", "--dedup-window-ms", "60000", env=env)
    assert (made.process.returncode, made.out) == (0, "station ids is made\n")
    first, second = (cli.run("send", "ids", "x", "--msg-id", "one", env=env) for _ in range(2))
    assert first.out == "ids: 1 message confirmed\n"
    assert second.out == "ids: 1 message confirmed (its id was there already)\n"
    again = cli.run("stations", "create", "ids", "--retention-value", "5", env=env)
    assert (again.process.returncode, again.out) == (3, "")
    assert "retention_value is 604800, asked for 5" in again.err
    assert cli.run("stations", "destroy", "ids", env=env).out == "station ids is destroyed\n"
    assert "ids" not in [row["name"] for row in json.loads(cli.run("stations", "list", "--json", env=env).out)]


def test_check_looks_and_creates_and_touches_no_message(cli: CommandLine, dev: str) -> None:
    cli.write("shop.py", SHOP.format(station="checked"))
    env = {"MEMPHIS_WORKER_URL": dev}
    offline = cli.run("check", "shop:app")
    assert (offline.process.returncode, offline.out) == (0, "shop:app: 2 handlers, all valid\n")
    missing = cli.run("check", "shop:app", "--connect", env=env)
    assert missing.process.returncode == 3
    assert "station 'checked', group 'billing' of station 'checked', group 'shipping'" in missing.err
    absent = cli.run("lag", "shop:app", env=env)
    assert absent.process.returncode == 3
    assert "checked/billing, checked/shipping" in absent.err
    assert cli.run("check", "shop:app", "--connect", "--create", env=env).process.returncode == 0
    assert cli.run("send", "checked", '{"id": 1}', env=env).process.returncode == 0
    assert cli.run("check", "shop:app", "--connect", env=env).process.returncode == 0
    assert lag_of(cli, dev, "checked") == {"billing": (1, 0), "shipping": (1, 0)}
    cli.write("shop.py", SHOP.format(station="checked").replace('"billing")', '"billing", max_ack_time_ms=7000)'))
    differs = cli.run("check", "shop:app", "--connect", env=env)
    assert differs.process.returncode == 3
    assert "its ack wait is 30 s, max_ack_time_ms asks for 7 s" in differs.err


def test_a_broker_that_is_down_at_the_start_is_waited_for(cli: CommandLine) -> None:
    cli.write("shop.py", SHOP.format(station="late"))
    ports = {"management_port": free_port(), "tcp_port": free_port(), "data_port": free_port()}
    url = f"memphis://root:{TOKEN}@127.0.0.1?" + "&".join(f"{name}={port}" for name, port in ports.items())
    worker = cli.start("run", "shop:app", "--http", "127.0.0.1:0", "--url", url)
    base = served_at(worker)
    worker.wait_for("broker.unreachable")
    assert [get(base + path)[0] for path in ("/startupz", "/healthz", "/readyz")] == [200, 200, 503]
    flags = [part for name, each in ports.items() for part in ("--" + name.replace("_", "-"), str(each))]
    broker = cli.start("dev", *flags, "--token", TOKEN)
    worker.wait_for("worker.started")
    assert cli.run("send", "late", '{"id": 5}', "--url", url).process.returncode == 0
    worker.wait_for("billed 5")
    until(lambda: get(base + "/readyz")[0] == 200, "ready")
    assert worker.stop() == 0
    assert broker.stop() == 0
    said = [event["event"] for event in worker.events() if event["event"].startswith("broker.")]
    assert said == ["broker.unreachable", "broker.connected"]


@pytest.mark.parametrize(("kind", "sleep"), [("async def", "await asyncio.sleep"), ("def", "time.sleep")])
def test_a_second_signal_hands_back_at_once_with_exit_4(cli: CommandLine, dev: str, kind: str, sleep: str) -> None:
    station = "twice_" + kind.split()[0]
    cli.write("slow.py", SLOW.format(station=station, kind=kind, sleep=sleep))
    worker = cli.start("run", "slow:app", "--no-http", "--url", dev)
    worker.wait_for("worker.started")
    assert cli.run("send", station, "a", "--url", dev).process.returncode == 0
    worker.wait_for("began a")
    worker.signal(signal.SIGTERM)
    worker.wait_for("worker.stopping")
    assert worker.process.poll() is None
    worker.signal(signal.SIGTERM)
    assert worker.wait(8) == 4
    assert worker.err == ""
    second = cli.start("run", "slow:app", "--no-http", "--url", dev)
    second.wait_for("began a")
    second.signal()
    second.wait_for("worker.stopping")
    second.signal()
    assert second.wait(8) == 4


def test_the_shutdown_timeout_ends_what_does_not_end_with_exit_4(cli: CommandLine, dev: str) -> None:
    cli.write("slow.py", SLOW.format(station="endless", kind="async def", sleep="await asyncio.sleep"))
    worker = cli.start("run", "slow:app", "--no-http", "--url", dev, "--shutdown-timeout", "0.5")
    worker.wait_for("worker.started")
    assert cli.run("send", "endless", "a", "--url", dev).process.returncode == 0
    worker.wait_for("began a")
    assert worker.stop() == 4
    assert lag_of(cli, dev, "endless") == {"slow": (0, 1)}


def test_a_thread_of_the_user_does_not_hold_up_the_exit(cli: CommandLine, dev: str) -> None:
    cli.write(
        "slow.py",
        "import asyncio, time\nfrom memphis_worker import App\napp = App('slow')\n"
        "@app.handler(station='pool', group='slow')\nasync def slow(body: bytes) -> None:\n"
        "    print('began', flush=True)\n    await asyncio.to_thread(time.sleep, 60)\n",
    )
    worker = cli.start("run", "slow:app", "--no-http", "--url", dev, "--shutdown-timeout", "0")
    worker.wait_for("worker.started")
    assert cli.run("send", "pool", "a", "--url", dev).process.returncode == 0
    worker.wait_for("began")
    worker.signal()
    assert worker.wait(10) == 4


def test_run_with_a_broker_of_its_own_leaves_nothing_behind(cli: CommandLine, tmp_path: Path) -> None:
    cli.write("shop.py", SHOP.format(station="own"))
    kept = tmp_path / "kept"
    worker = cli.start("run", "shop:app", "--no-http", "--embedded")
    worker.wait_for("worker.started")
    below = descendants(worker.pid)
    assert len(below) >= 1
    assert worker.stop() == 0
    assert [pid for pid in below if alive(pid)] == []
    again = cli.start("run", "shop:app", "--no-http", "--url", f"embedded://{kept}")
    again.wait_for("worker.started")
    assert again.stop() == 0
    assert (kept / "state.json").exists()


def test_dev_ends_its_nats_server_and_a_worker_that_follows_its_source(cli: CommandLine) -> None:
    cli.write("shop.py", "def broken(:\n")
    ports = ["--management-port", "0", "--tcp-port", "0", "--data-port", "0"]
    dev = cli.start("dev", "shop:app", *ports, "--token", TOKEN, "--http", "127.0.0.1:0")
    url = url_of(dev)
    dev.wait_for("SyntaxError")
    dev.wait_for("the worker ended with exit code 2; waiting for a changed file")
    cli.write("shop.py", SHOP.format(station="watched"))
    dev.wait_for("worker.started")
    assert cli.run("send", "watched", '{"id": 1}', "--url", url).process.returncode == 0
    dev.wait_for("billed 1")
    cli.write("shop.py", SHOP.format(station="watched").replace("billed", "charged"))
    dev.wait_for("worker.started", times=2)
    assert cli.run("send", "watched", '{"id": 2}', "--url", url).process.returncode == 0
    dev.wait_for("charged 2")
    below = descendants(dev.pid)
    assert len(below) >= 3
    assert dev.stop() == 0
    assert [pid for pid in below if alive(pid)] == []


def test_two_signals_at_once_end_dev(cli: CommandLine) -> None:
    dev = cli.start("dev", "--management-port", "0", "--tcp-port", "0", "--data-port", "0")
    url_of(dev)
    dev.signal(signal.SIGSTOP)
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGCONT):
        dev.signal(number)
    assert dev.wait() == 0


def test_a_worker_of_dev_ends_when_dev_is_killed(cli: CommandLine) -> None:
    cli.write("shop.py", SHOP.format(station="orphan"))
    dev = cli.start("dev", "shop:app", "--no-http", "--management-port", "0", "--tcp-port", "0", "--data-port", "0")
    dev.wait_for("worker.started")
    below = descendants(dev.pid)
    dev.signal(signal.SIGKILL)
    until(lambda: not any(map(alive, below)), "all processes of dev are gone")


def test_metrics_and_health_are_live(cli: CommandLine, dev: str) -> None:
    cli.write("shop.py", SHOP.format(station="seen"))
    worker = cli.start("run", "shop:app", "--http", "127.0.0.1:0", "--url", dev)
    base = served_at(worker)
    worker.wait_for("worker.started")
    until(lambda: get(base + "/readyz")[0] == 200, "ready")
    assert cli.run("send", "seen", '{"id": 1}', "--count", "3", "--url", dev).process.returncode == 0
    assert cli.run("send", "seen", "no json", "--url", dev).process.returncode == 0
    labels = '{handler="shop.bill",station="seen"'

    def value(sample: str) -> str:
        return next(
            (line.split()[-1] for line in get(base + "/metrics")[1].splitlines() if line.startswith(sample)), ""
        )

    def counted(family: str, label: str) -> str:
        return value(f'memphis_worker_{family}_total{{handler="shop.bill",{label},station="seen"}}')

    until(lambda: counted("messages_processed", 'outcome="dead_letter"') == "1.0", "the dead letter is counted")
    until(lambda: counted("messages_processed", 'outcome="success"') == "3.0", "the successes are counted")
    assert value("memphis_worker_messages_received_total" + labels) == "4.0"
    assert value("memphis_worker_messages_in_progress" + labels) == "0.0"
    assert counted("dead_letters", 'reason="undecodable"') == "1.0"
    assert counted("dead_letters", 'reason="crashed"') == "0.0"
    assert value("memphis_worker_message_processing_duration_seconds_count" + labels) == "4.0"
    assert value('memphis_worker_connection_events_total{event="connect"}') == "1.0"
    assert value("memphis_worker_connected") == value("memphis_worker_ready") == "1.0"
    assert value('memphis_worker_state{state="running"}') == "1.0"
    assert get(base + "/healthz")[0] == 200
    info = json.loads(get(base + "/info")[1])
    assert (info["app"], info["state"], len(info["handlers"])) == ("shop", "running", 2)
    assert TOKEN not in json.dumps(info)
    assert worker.stop() == 0


def test_a_blocked_loop_fails_its_liveness_and_recovers(cli: CommandLine, dev: str) -> None:
    cli.write(
        "block.py",
        "import time\nfrom pathlib import Path\nfrom memphis_worker import App\napp = App('block')\n"
        "@app.handler(station='block')\nasync def block(body: bytes) -> None:\n"
        "    while not Path('released').exists():\n        time.sleep(0.02)\n",
    )
    worker = cli.start("run", "block:app", "--http", "127.0.0.1:0", "--stall-timeout", "0.6", "--url", dev)
    base = served_at(worker)
    worker.wait_for("worker.started")
    assert get(base + "/healthz")[0] == 200
    assert cli.run("send", "block", "x", "--url", dev).process.returncode == 0
    until(lambda: get(base + "/healthz")[0] == 503, "a blocked loop is seen")
    assert json.loads(get(base + "/healthz")[1])["checks"]["event_loop"]["ok"] is False
    assert get(base + "/readyz")[0] == 503
    cli.write("released", "")
    until(lambda: get(base + "/healthz")[0] == 200, "it recovers")
    assert worker.stop() == 0


def test_a_failed_send_does_not_wait_for_more_input(cli: CommandLine, dev: str) -> None:
    process = cli.start("send", "not_there", "-", "--url", dev, stdin=b"a\n", keep_stdin=True)
    assert process.wait(10) == 3
    assert "'not_there' does not exist" in process.err


def test_handlers_lists_what_the_app_has_and_what_takes_effect(cli: CommandLine) -> None:
    source = SHOP.format(station="listed") + "\ndef make():\n    return app\n"
    cli.write("shop.py", source.replace('group="billing"', 'group="billing", concurrency=7, max_ack_time_ms=9000'))
    bill, ship = json.loads(cli.run("handlers", "shop:app", "--json").out)
    assert (bill["handler"], bill["station"], bill["group"], bill["kind"]) == (
        "shop.bill",
        "listed",
        "billing",
        "async",
    )
    assert (bill["concurrency"], bill["max_ack_time_ms"], bill["max_msg_deliveries"]) == (7, 9000, 10)
    assert (ship["kind"], ship["concurrency"]) == ("thread", 40)
    table = cli.run("handlers", "shop:make", "--factory")
    assert [line.split()[0] for line in table.out.splitlines()] == ["HANDLER", "shop.bill", "shop.ship"]


def test_only_the_chosen_handlers_run(cli: CommandLine, dev: str) -> None:
    cli.write("shop.py", SHOP.format(station="chosen"))
    worker = cli.start("run", "shop:app", "--no-http", "--url", dev, env={"MEMPHIS_WORKER_HANDLERS": "ship"})
    worker.wait_for("worker.started")
    assert worker.stop() == 0
    assert list(lag_of(cli, dev, "chosen")) == ["shipping"]


def test_version_help_and_the_module_work(cli: CommandLine) -> None:
    shown = json.loads(cli.run("version", "--json").out)
    assert [row["name"] for row in shown] == ["memphis-worker", "python", "nats-py", "nats-server"]
    assert cli.run("--version").out.startswith("memphis-worker ")
    helped = cli.run("run", "--help")
    assert helped.process.returncode == 0
    assert "Exit codes" in helped.out
    assert "--parent-fd" not in helped.out
