"""Bad input gets one clear line, the right exit code, no traceback, and loses nothing."""

from __future__ import annotations

import json
import socket

import pytest
from command_line import TOKEN, CommandLine, Process, free_port

PREFIX = "memphis-worker: error: "


def app_with(*handlers: str) -> str:
    return "from memphis_worker import App, Message\napp = App('shop')\n" + "\n".join(handlers)


def handler(arguments: str, signature: str = "body: bytes", name: str = "bill") -> str:
    return f"@app.handler({arguments})\nasync def {name}({signature}) -> None: ...\n"


def assert_one_line(process: Process, code: int, *words: str) -> None:
    assert (process.process.returncode, process.out) == (code, ""), process.output
    (line,) = process.err.splitlines()
    assert line.startswith(PREFIX)
    for word in words:
        assert word in line


@pytest.mark.parametrize(
    ("target", "words"),
    [
        ("nosuch:app", ["no module named 'nosuch'"]),
        ("shop:nosuch", ["no attribute 'nosuch'", "it has app"]),
        ("shop:number", ["is no memphis_worker.App but a int"]),
        ("shop", ["module:attribute"]),
    ],
)
def test_an_app_that_is_not_there_is_one_line_and_exit_2(cli: CommandLine, target: str, words: list[str]) -> None:
    cli.write("shop.py", app_with("number = 7"))
    assert_one_line(cli.run("run", target, "--no-http"), 2, target, *words)


@pytest.mark.parametrize(
    ("source", "words"),
    [
        (
            app_with(handler("station='a', group='g'", name="one"), handler("station='a', group='g'", name="two")),
            ["shop.one and shop.two", "'a'", "'g'", "shop.py:6"],
        ),
        (app_with(handler("station='a-b'")), ["station name 'a-b'", "shop.bill", "shop.py:3"]),
        (app_with(handler("station='a', group='g h'")), ["group name 'g h'", "shop.bill"]),
        (app_with(handler("station='a', max_msg_deliveries=0")), ["max_msg_deliveries is 0", "shop.py:3"]),
        (app_with(handler("station='a', concurrency=-1")), ["concurrency is -1"]),
        (app_with(handler("station='a', max_ack_time_ms=-5")), ["max_ack_time_ms is -5"]),
        (app_with(handler("station='a'", "")), ["shop.bill takes no parameter"]),
        (app_with(handler("station='a'", "body")), ["shop.bill", "'body' has no annotation"]),
        (app_with(handler("station='a'", "one: bytes, two: bytes")), ["shop.bill", "'two' would be a second body"]),
        (app_with(handler("station='a'", "body: Nothing")).replace("import App", "import App  #", 1), ["Nothing"]),
        (app_with(), ["app 'shop' has no handler"]),
    ],
    ids=[
        "two-handlers-of-a-group", "station-name", "group-name", "deliveries-0", "concurrency-negative",
        "ack-time-negative", "no-parameter", "no-annotation", "second-body", "unknown-annotation", "no-handler",
    ],
)  # fmt: skip
def test_a_handler_that_cannot_work_is_one_line_and_exit_2(cli: CommandLine, source: str, words: list[str]) -> None:
    if "Nothing" in source:
        source = "from __future__ import annotations\n" + source
    cli.write("shop.py", source)
    assert_one_line(cli.run("run", "shop:app", "--no-http"), 2, *words)


def test_an_import_error_of_the_users_module_keeps_its_own_traceback(cli: CommandLine) -> None:
    cli.write("shop.py", "from memphis_worker import App\nimport parts\napp = App()\n")
    cli.write("parts.py", "def load():\n    import not_installed\n\nload()\n")
    process = cli.run("run", "shop:app")
    assert process.process.returncode == 2
    lines = process.err.splitlines()
    assert lines[0] == "Traceback (most recent call last):"
    assert [line.strip() for line in lines if line.startswith("  File")] == [
        f'File "{cli.folder}/shop.py", line 2, in <module>',
        f'File "{cli.folder}/parts.py", line 4, in <module>',
        f'File "{cli.folder}/parts.py", line 2, in load',
    ]
    assert lines[-1] == (f"{PREFIX}'shop:app' cannot be imported: ModuleNotFoundError: No module named 'not_installed'")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--concurrency", "-1"], ["concurrency is -1"]),
        (["--shutdown-timeout", "-1"], ["shutdown_timeout_s is -1"]),
        (["--stall-timeout", "0"], ["stall_timeout_s is 0"]),
        (["--concurrency", "many"], ["'many' is not a valid integer"]),
        (["--frobnicate"], ["No such option", "--frobnicate", "memphis-worker run --help"]),
        (["--url", f"amqp://me:{TOKEN}@host"], ["amqp://***@host", "memphis://"]),
        (["--url", "memphis://host:6666"], ["tcp_port="]),
        (["--http", "9090"], ["HOST:PORT"]),
        (["-H", "nosuch"], ["no handler is named 'nosuch'", "shop.bill"]),
        (["-X", "bill"], ["nothing to run"]),
        (["--embedded", "--url", "memphis://host"], ["--embedded and --url"]),
    ],
)
def test_an_option_that_cannot_hold_is_one_line_and_exit_2(
    cli: CommandLine, arguments: list[str], words: list[str]
) -> None:
    cli.write("shop.py", app_with(handler("station='a'")))
    assert_one_line(cli.run("run", "shop:app", *arguments), 2, *words)


def test_a_variable_is_refused_like_its_flag(cli: CommandLine) -> None:
    cli.write("shop.py", app_with(handler("station='a'")))
    assert_one_line(cli.run("run", "shop:app", env={"MEMPHIS_WORKER_CONCURRENCY": "-3"}), 2, "concurrency is -3")


def test_a_wrong_token_is_refused_with_exit_3(cli: CommandLine, dev: str) -> None:
    cli.write("shop.py", app_with(handler("station='a'")))
    wrong = dev.replace(TOKEN, "not-the-token")
    worker = cli.run("run", "shop:app", "--no-http", "--url", wrong)
    assert worker.process.returncode == 3
    (line,) = worker.err.splitlines()
    assert line.startswith(PREFIX)
    assert "refused the sign-in" in line
    assert "Traceback" not in worker.output
    assert "not-the-token" not in worker.output
    assert_one_line(cli.run("send", "a", "x", "--url", wrong), 3, "refused the sign-in")


def test_a_port_of_metrics_that_is_taken_is_named(cli: CommandLine) -> None:
    cli.write("shop.py", app_with(handler("station='a'")))
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        process = cli.run("run", "shop:app", "--embedded", "--http", f"127.0.0.1:{port}")
    assert_one_line(process, 2, f"127.0.0.1:{port} is taken", "--http")


def test_a_port_of_the_broker_that_is_taken_is_named(cli: CommandLine) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        process = cli.run("dev", "--management-port", "0", "--tcp-port", "0", "--data-port", str(port))
    assert_one_line(process, 2, f"{port} is taken", "--data-port")


@pytest.mark.parametrize(
    "arguments", [["send", "a", "x"], ["lag"], ["stations", "list"], ["check", "shop:app", "--connect"]]
)
def test_a_broker_that_is_not_reachable_is_one_line_and_exit_3(cli: CommandLine, arguments: list[str]) -> None:
    cli.write("shop.py", app_with(handler("station='a'")))
    url = f"memphis://root:{TOKEN}@127.0.0.1?tcp_port={free_port()}"
    process = cli.run(*arguments, "--url", url)
    assert process.process.returncode == 3
    (line,) = process.err.splitlines()
    assert line.startswith(PREFIX + "nobody answers at 127.0.0.1")


def test_a_broker_that_says_nothing_is_given_up(cli: CommandLine) -> None:
    with socket.create_server(("127.0.0.1", 0)) as mute:
        url = f"memphis://root:{TOKEN}@127.0.0.1?tcp_port={mute.getsockname()[1]}"
        process = cli.run("lag", "--timeout", "0.3", "--url", url)
    assert_one_line(process, 3, "did not answer within 0.3 s")


def test_a_payload_over_the_limit_is_refused_and_nothing_else_lost(cli: CommandLine, dev: str) -> None:
    env = {"MEMPHIS_WORKER_URL": dev}
    process = cli.run("send", "large", "-", "--create", stdin=b"a\n" + b"x" * 1_100_000 + b"\n", env=env)
    assert_one_line(process, 2, "bytes", "the broker takes 1048576", "1 message was confirmed")
    shown = cli.run("stations", "show", "large", "--json", env=env)
    assert json.loads(shown.out)[0]["messages"] == 1


@pytest.mark.parametrize(
    ("arguments", "stdin", "words"),
    [
        (["send", "a"], None, "nothing to send"),
        (["send", "a", ""], None, "nothing to send"),
        (["send", "a-b", "x"], None, "station name 'a-b'"),
        (["send", "a", "x", "--header", "novalue"], None, "KEY=VALUE"),
        (["send", "a", "x", "--count", "0"], None, "--count"),
        (["send", "a", "x", "--msg-id", "1", "--count", "2"], None, "--msg-id"),
        (["send", "a", "x", "--timeout", "-1"], None, "--timeout"),
        (["stations", "create", "a", "--replicas", "9"], None, "replicas is 9"),
        (["stations", "create", "a", "--retention-value", "-1"], None, "retention_value is -1"),
        (["lag", "--watch"], None, "No such option"),
        (["nosuch"], None, "No such command"),
    ],
)
def test_a_bad_argument_of_the_other_commands_is_one_line_and_exit_2(
    cli: CommandLine, arguments: list[str], stdin: bytes | None, words: str
) -> None:
    assert_one_line(cli.run(*arguments, stdin=stdin), 2, words)


def test_empty_input_is_an_error(cli: CommandLine, dev: str) -> None:
    process = cli.run("send", "empty", "-", "--create", stdin=b"\n\n", env={"MEMPHIS_WORKER_URL": dev})
    assert_one_line(process, 2, "standard input is empty")


def test_a_station_that_is_missing_is_made_only_when_asked_for(cli: CommandLine, dev: str) -> None:
    env = {"MEMPHIS_WORKER_URL": dev}
    assert_one_line(cli.run("send", "absent", "x", env=env), 3, "'absent' does not exist", "--create")
    assert cli.run("send", "absent", "x", "--create", env=env).process.returncode == 0
    assert_one_line(cli.run("stations", "show", "nowhere", env=env), 3, "'nowhere' does not exist")
    assert_one_line(cli.run("stations", "destroy", "nowhere", env=env), 3, "'nowhere' does not exist")


def test_a_handler_that_exits_fails_its_message_and_not_the_worker(cli: CommandLine, dev: str) -> None:
    cli.write(
        "shop.py",
        "import sys\n"
        "from memphis_worker import App, Backoff, Message\n"
        "app = App('shop')\n"
        "class Odd(BaseException): ...\n"
        "@app.handler(station='exits', retry=Backoff(base_s=0.05, jitter=False), max_msg_deliveries=3)\n"
        "async def leave(message: Message) -> None:\n"
        "    print('attempt', message.deliveries, flush=True)\n"
        "    if message.deliveries == 1:\n"
        "        sys.exit(7)\n"
        "    if message.deliveries == 2:\n"
        "        raise Odd('odd')\n"
        "    print('done', flush=True)\n",
    )
    env = {"MEMPHIS_WORKER_URL": dev}
    worker = cli.start("run", "shop:app", "--no-http", env=env)
    worker.wait_for("worker.started")
    assert cli.run("send", "exits", "x", env=env).process.returncode == 0
    worker.wait_for("^done$".replace("^", "(?m)^"))
    assert worker.stop() == 0
    failed = [event["error_type"] for event in worker.events() if event["event"] == "message.failed"]
    assert failed == ["SystemExit", "Odd"]
