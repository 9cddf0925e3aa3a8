from __future__ import annotations

import pytest

from memphis_worker.errors import InvalidOption, InvalidURL, MemphisWorkerError
from memphis_worker.options import ConnectOptions

SECRET = "s3cr3t-t0k3n"


def test_a_url_holds_user_token_and_ports() -> None:
    options = ConnectOptions.from_url(
        f"memphis://shop:{SECRET}@broker?management_port=1&tcp_port=2&data_port=3&protocol=classic", {}
    )
    assert (options.host, options.username, options.connection_token) == ("broker", "shop", SECRET)
    assert (options.management_port, options.tcp_port, options.data_port) == (1, 2, 3)
    assert options.protocol == "classic"


def test_what_is_quoted_in_a_url_is_unquoted() -> None:
    options = ConnectOptions.from_url("memphis://a%40b:c%2Fd@broker", {})
    assert (options.username, options.connection_token) == ("a@b", "c/d")


def test_without_a_url_it_is_the_local_broker_on_the_ports_of_memphis() -> None:
    options = ConnectOptions.from_url(None, {})
    assert options == ConnectOptions()
    assert (options.host, options.management_port, options.tcp_port, options.data_port) == (
        "localhost",
        5555,
        6666,
        7766,
    )


def test_the_environment_fills_in_what_the_url_leaves_out() -> None:
    env = {
        "MEMPHIS_WORKER_USERNAME": "env",
        "MEMPHIS_WORKER_CONNECTION_TOKEN": SECRET,
        "MEMPHIS_WORKER_TCP_PORT": "7",
        "MEMPHIS_WORKER_RECONNECT": "false",
    }
    options = ConnectOptions.from_url("memphis://url@broker?tcp_port=8", env)
    assert (options.username, options.connection_token, options.tcp_port) == ("url", SECRET, 8)
    assert options.reconnect is False


def test_the_url_may_come_from_the_environment_or_its_host_alone() -> None:
    assert ConnectOptions.from_url(None, {"MEMPHIS_WORKER_URL": "memphis://a"}).host == "a"
    assert ConnectOptions.from_url(None, {"MEMPHIS_WORKER_HOST": "b"}).host == "b"


@pytest.mark.parametrize(
    "url",
    [
        f"http://u:{SECRET}@host",
        f"memphis:u:{SECRET}",
        f"memphis://u:{SECRET}@host:5555",
        f"memphis://u:{SECRET}@host:port",
        f"memphis://u:{SECRET}@host/path",
        f"memphis://u:{SECRET}@host?unknown=1",
        f"memphis://u:{SECRET}@host?tcp_port=x",
        f"memphis://u:{SECRET}@host?tcp_port=0",
        f"memphis://u:{SECRET}@host?protocol=native",
        f"memphis://u:{SECRET}@[::1",
        f"nats://{SECRET}@host:4222",
        f"{SECRET}@host",
        f"memphis://u:{SECRET}",
        f"memphis://u:a/{SECRET}@host",
        f"memphis://u:a?{SECRET}@host",
        f"memphis://u:a#{SECRET}@host",
        f"memphis://u@host?connection_token={SECRET}",
    ],
)
def test_a_url_that_cannot_be_used_is_refused_without_its_secret(url: str) -> None:
    with pytest.raises((InvalidURL, InvalidOption)) as caught:
        ConnectOptions.from_url(url, {})
    error: BaseException | None = caught.value
    assert isinstance(error, MemphisWorkerError)
    while error is not None:
        assert SECRET not in str(error)
        error = error.__cause__


def test_secrets_show_neither_in_the_repr_nor_in_the_url() -> None:
    options = ConnectOptions(connection_token=SECRET)
    assert SECRET not in repr(options)
    assert SECRET not in options.url
    assert SECRET not in repr(ConnectOptions(password=SECRET))


@pytest.mark.parametrize(("name", "value"), [("TCP_PORT", "x"), ("RECONNECT", "maybe"), ("PROTOCOL", "smtp")])
def test_a_bad_environment_variable_is_named(name: str, value: str) -> None:
    with pytest.raises(InvalidOption, match=name.lower() if name == "PROTOCOL" else f"MEMPHIS_WORKER_{name}"):
        ConnectOptions.from_url("memphis://host", {f"MEMPHIS_WORKER_{name}": value})


def test_a_token_and_a_password_exclude_each_other() -> None:
    with pytest.raises(InvalidOption, match="keep the one"):
        ConnectOptions(connection_token="a", password="b")
