"""Whether an executor is at home at an address: its own one, or one of our own network."""

import pytest

from pushtrain.core.wire.address import elsewhere, is_loopback, is_own_network, origin
from pushtrain.testing import a_card

CARD = a_card(public_url="https://lab-3.example.ngrok.app", ip="8.8.4.7", port=8421, sequence=12)


@pytest.mark.parametrize(
    "url",
    [
        "https://lab-3.example.ngrok.app",
        "https://LAB-3.Example.ngrok.app:443/",
        "https://lab-3.example.ngrok.app.",
        "http://8.8.4.7:8421",
        "http://127.0.0.1:9000",
        "http://localhost:9000",
        "http://[::1]:9000",
        "http://192.168.1.5:8421",
        "http://10.0.0.5:8421",
        "http://100.64.0.9:8421",
        "http://[fe80::1%25eth0]:8421",
    ],
)
def test_an_executor_is_at_home_at_its_own_address_and_in_ones_own_network(url: str) -> None:
    assert elsewhere(url, CARD) == ""


@pytest.mark.parametrize(
    "url",
    [
        "https://somebody-else.ngrok.app",
        "http://lab-3.example.ngrok.app",
        "https://lab-3.example.ngrok.app:8443",
        "https://lab-3.example.ngrok.app.evil.example",
        "http://8.8.4.8:8421",
        "http://8.8.4.7:8422",
        "https://8.8.4.7:8421",
        "http://8.8.8.8:8421",
        "http://lab.localhost:8421",
        "https://intranet",
        "",
    ],
)
def test_whoever_passes_questions_on_from_another_address_is_seen(url: str) -> None:
    assert elsewhere(url, CARD) == "it says that its own address is https://lab-3.example.ngrok.app"


def test_an_executor_that_takes_no_calls_is_at_home_nowhere_else() -> None:
    card = CARD.model_copy(update={"public_url": ""})
    assert elsewhere("https://lab-3.example.ngrok.app", card) == "it says that it takes no calls"
    assert elsewhere("http://127.0.0.1:8421", card) == ""


def test_an_executor_that_says_an_older_number_than_its_card_has_is_not_believed() -> None:
    url = CARD.public_url
    assert elsewhere(url, CARD, newest=12) == ""
    assert elsewhere(url, CARD, newest=13) == "it is at card number 12, and its card number 13 was seen"
    assert elsewhere("http://127.0.0.1:1", CARD, newest=13) != ""


@pytest.mark.parametrize(
    ("url", "wanted"),
    [
        ("https://A.example", ("https", "a.example", 443)),
        ("http://a.example:8421", ("http", "a.example", 8421)),
        ("http://[::1]", ("http", "::1", 80)),
        ("ftp://a.example", ("", "", 0)),
        ("https://a.example:99999", ("", "", 0)),
        ("https://[", ("", "", 0)),
    ],
)
def test_addresses_are_compared_by_their_origin(url: str, wanted: tuple[str, str, int]) -> None:
    assert origin(url) == wanted


@pytest.mark.parametrize(
    ("host", "loopback", "own"),
    [
        ("127.0.0.2", True, True),
        ("::1", True, True),
        ("localhost", True, True),
        ("LOCALHOST.", True, True),
        ("10.0.0.1", False, True),
        ("169.254.1.1", False, True),
        ("8.8.8.8", False, False),
        ("2606:4700::1", False, False),
        ("localhost.example", False, False),
        ("", False, False),
    ],
)
def test_ones_own_network_is_told_from_the_internet(host: str, loopback: bool, own: bool) -> None:
    assert (is_loopback(host), is_own_network(host)) == (loopback, own)
