"""What a job may reach: never more than the owner allows, never what cannot be enforced."""

import ipaddress
import itertools

import pytest

from pushtrain.core.errors import Forbidden
from pushtrain.core.owner.network import PRIVATE, allows, enforceable, settle, unfit
from pushtrain.core.values.isolation import Isolation, JobNetwork

FULL, INTERNET, FETCH_ONLY, NONE = (
    JobNetwork.FULL,
    JobNetwork.INTERNET,
    JobNetwork.FETCH_ONLY,
    JobNetwork.NONE,
)
ALL = frozenset(JobNetwork)


def test_a_job_that_asks_for_nothing_gets_what_the_rule_allows() -> None:
    assert [settle(rule, None, ALL) for rule in JobNetwork] == list(JobNetwork)


@pytest.mark.parametrize(("rule", "wish"), list(itertools.product(JobNetwork, JobNetwork)))
def test_a_job_gets_less_when_it_asks_and_never_more(rule: JobNetwork, wish: JobNetwork) -> None:
    order = (FULL, INTERNET, FETCH_ONLY, NONE)
    if order.index(wish) < order.index(rule):
        with pytest.raises(Forbidden, match=r"the owner's rule `rules.network`") as caught:
            settle(rule, wish, ALL)
        assert str(rule) in str(caught.value)
        assert not allows(rule, wish)
    else:
        assert settle(rule, wish, ALL) is wish
        assert allows(rule, wish)


@pytest.mark.parametrize("rule", [INTERNET, FETCH_ONLY])
def test_what_cannot_be_enforced_is_refused_and_not_ignored(rule: JobNetwork) -> None:
    can = enforceable(Isolation.SANDBOX, uplinks=False)
    with pytest.raises(Forbidden, match="cannot hold it to") as caught:
        settle(rule, None, can)
    assert '`network = "none"`' not in caught.value.message
    assert 'network = "none"' in caught.value.mend
    assert settle(rule, NONE, can) is NONE


def test_only_full_can_be_had_where_a_job_is_not_kept_in_a_namespace() -> None:
    for level in (Isolation.CONFINED, Isolation.USER, Isolation.NONE):
        assert enforceable(level, uplinks=True) == {FULL}
        with pytest.raises(Forbidden):
            settle(INTERNET, None, enforceable(level, uplinks=True))
        with pytest.raises(Forbidden):
            settle(INTERNET, NONE, enforceable(level, uplinks=True))
        assert settle(FULL, None, enforceable(level, uplinks=True)) is FULL


def test_a_container_can_have_all_or_nothing() -> None:
    assert enforceable(Isolation.CONTAINER, uplinks=True) == {FULL, NONE}


def test_the_sandbox_can_hold_to_everything_where_there_are_uplinks() -> None:
    assert enforceable(Isolation.SANDBOX, uplinks=True) == ALL


def test_a_card_tells_whether_a_job_fits() -> None:
    assert "lets jobs reach `internet` at most; the job asks for `full`" in unfit("internet", FULL)
    assert unfit("internet", None) == unfit("internet", NONE) == unfit("full", FULL) == ""
    assert "cannot hold jobs to" in unfit("", None)
    assert "cannot hold jobs to" in unfit("", INTERNET)
    assert unfit("", NONE) == "", "the executor may be able to do that"
    assert unfit("a word of tomorrow", FULL) == "", "the executor itself will tell"


@pytest.mark.parametrize(
    "address",
    [
        "10.0.0.1",
        "100.64.0.1",
        "100.127.255.254",
        "127.0.0.1",
        "168.63.129.16",  # Azure's metadata service, public by its number
        "169.254.169.254",
        "172.16.0.1",
        "172.31.255.254",
        "192.168.1.1",
        "224.0.0.251",
        "239.255.255.250",
        "255.255.255.255",
        "0.0.0.0",  # noqa: S104  refused, not bound
        "198.18.0.1",
    ],
)
def test_what_is_not_the_public_internet_is_private(address: str) -> None:
    assert any(ipaddress.ip_address(address) in ipaddress.ip_network(one) for one in PRIVATE)


def test_what_python_calls_public_is_not_private() -> None:
    """Beside the standard library's own list; nothing of the internet is lost."""
    networks = [ipaddress.IPv4Network(one) for one in PRIVATE]
    for high in range(256):
        for low in (0, 1, 16, 64, 88, 99, 113, 168, 254):
            address = ipaddress.IPv4Address(f"{high}.{low}.2.1")
            ours = any(address in one for one in networks)
            assert ours or address.is_global, address
            if address.is_global and not address.is_multicast:
                assert not ours, address
