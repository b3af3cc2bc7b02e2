"""Which tunnel is opened, and where callers on the same machine look instead."""

from typing import Any

import pytest

from pushtrain.adapters.tunnels import TUNNELS
from pushtrain.core.errors import ConfigError
from pushtrain.core.settings import ExecutorSettings
from pushtrain.testing import a_card
from pushtrain.wiring.parts import local_url
from pushtrain.wiring.tunnels import choose, chosen, make


@pytest.mark.parametrize(
    ("settings", "lends", "token", "wanted"),
    [
        ({}, True, True, "ngrok"),
        ({}, True, False, "none"),
        ({}, False, True, "none"),
        ({"host": "0.0.0.0"}, True, True, "none"),  # noqa: S104  a setting
        ({"host": "::1"}, True, True, "ngrok"),
        ({"host": "localhost"}, True, True, "ngrok"),
        ({"tunnel": "none"}, True, True, "none"),
        ({"tunnel": "ngrok"}, False, False, "ngrok"),
        ({"domain": "lab.example"}, False, False, "ngrok"),
        ({"public_url": "https://x.example"}, True, True, "static"),
        ({"ssh_target": "me@x.example", "public_url": "https://x.example"}, True, True, "ssh"),
        ({"tunnel": "static", "ssh_target": "me@x.example"}, True, True, "static"),
    ],
)
def test_what_is_set_speaks_for_its_tunnel_and_an_authtoken_for_ngrok(
    settings: dict[str, Any], lends: bool, token: bool, wanted: str
) -> None:
    assert choose(ExecutorSettings(**settings), lends=lends, token=lambda: token) == wanted


def test_the_authtoken_is_not_looked_for_where_something_else_is_said() -> None:
    def looked() -> bool:
        raise AssertionError("nobody asked")

    assert choose(ExecutorSettings(tunnel="none"), lends=True, token=looked) == "none"
    assert choose(ExecutorSettings(), lends=False, token=looked) == "none"


def test_in_a_home_without_an_authtoken_no_tunnel_is_chosen(monkeypatch: pytest.MonkeyPatch) -> None:
    assert chosen(ExecutorSettings(), lends=True) == "none"
    monkeypatch.setenv("NGROK_AUTHTOKEN", "tok_en")
    assert chosen(ExecutorSettings(), lends=True) == "ngrok"


def test_every_name_that_the_setting_takes_can_be_made(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NGROK_AUTHTOKEN", "tok_en")
    settings = ExecutorSettings(public_url="https://x.example", ssh_target="me@x.example")
    assert all(make(name, settings) is not None for name in TUNNELS)
    assert make("none", settings) is None


def test_what_is_missing_stops_the_start() -> None:
    with pytest.raises(ConfigError):
        make("static", ExecutorSettings())


@pytest.mark.parametrize(
    ("ip", "port", "wanted"),
    [
        ("127.0.0.1", 8421, "http://127.0.0.1:8421"),
        ("0.0.0.0", 8421, "http://127.0.0.1:8421"),  # noqa: S104  a setting
        ("::", 8421, "http://[::1]:8421"),
        ("10.0.0.1", 80, "http://10.0.0.1:80"),
        ("127.0.0.1", 0, "https://public.example"),
    ],
)
def test_ones_own_executor_is_called_past_the_tunnel(ip: str, port: int, wanted: str) -> None:
    assert local_url(a_card(public_url="https://public.example", ip=ip, port=port)) == wanted
