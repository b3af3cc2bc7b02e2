"""URLs and servers made to lead an executor's downloads where they must not go, or to hold them up."""

import hashlib
import logging
import socket
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from ipaddress import ip_network
from pathlib import Path
from typing import Any

import pytest
from downloading import CONTENT, get, port_of, raw

from data_server import FileServer, Served, file_server, status
from pushtrain.core.errors import DataError
from pushtrain.core.owner.rules import Rules
from pushtrain.core.values.jobspec import DataSource
from pushtrain.plumbing.data import dial, doors, neighbours
from pushtrain.plumbing.data import download as downloading
from pushtrain.plumbing.data.supply import fetch
from pushtrain.plumbing.data.terms import OWN, Terms, of_rules
from pushtrain.plumbing.disk.cache import Cache
from tls_host import tls_server


@pytest.fixture
def server() -> Iterator[FileServer]:
    with file_server() as found:
        yield found


@pytest.fixture
def cache(tmp_path: Path) -> Cache:
    return Cache(tmp_path / "data")


@pytest.fixture(autouse=True)
def quiet(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(downloading, "_pause", lambda *_: None)
    for name in (
        "HTTP_PROXY",
        "http_proxy",
        "HTTPS_PROXY",
        "https_proxy",
        "ALL_PROXY",
        "all_proxy",
        "NO_PROXY",
    ):
        monkeypatch.delenv(name, raising=False)


class Resolver:
    """Stands where the system's resolver does: the boundary to what other people's name servers say."""

    def __init__(self, names: Mapping[str, Sequence[Sequence[str]]]) -> None:
        self.names = {name: list(answers) for name, answers in names.items()}
        self.asked: list[str] = []
        self._real = socket.getaddrinfo

    def __call__(self, host: str, port: int, *rest: Any, **more: Any) -> list[Any]:
        if host not in self.names:
            return self._real(host, port, *rest, **more)
        self.asked.append(host)
        answers = self.names[host]
        addresses = answers.pop(0) if len(answers) > 1 else answers[0]
        if not addresses:
            raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")
        return [
            (
                socket.AF_INET6 if ":" in address else socket.AF_INET,
                socket.SOCK_STREAM,
                6,
                "",
                (address, port, 0, 0) if ":" in address else (address, port),
            )
            for address in addresses
        ]


@contextmanager
def resolving(
    monkeypatch: pytest.MonkeyPatch, names: Mapping[str, Sequence[Sequence[str]]]
) -> Iterator[Resolver]:
    resolver = Resolver(names)
    with monkeypatch.context() as patch:
        patch.setattr(socket, "getaddrinfo", resolver)
        yield resolver


@pytest.mark.parametrize(
    "host",
    [
        "127.0.0.1",
        "localhost",
        "127.1",
        "2130706433",
        "0x7f.1",
        "0177.0.0.1",
        "127.0.0.1.",
        "localhost.",
        "good@127.0.0.1",
        "127.0.0.1%23@good",
        "good\\@127.0.0.1",
        "[::1]",
        "[::ffff:127.0.0.1]",
        "[::ffff:7f00:1]",
        "[::127.0.0.1]",
        "[64:ff9b::127.0.0.1]",
        "[::1%25lo]",
        "0",
        "0.0.0.0",  # noqa: S104  an address to refuse
        "[::]",
        "\uff11\uff12\uff17.0.0.1",
        "127\u30020.0.1",
        "%31%32%37.0.0.1",
        "12\t7.0.0.1",
        "127.0.0.1\n",
    ],
)
def test_this_machine_is_not_asked_in_any_spelling(server: FileServer, cache: Cache, host: str) -> None:
    server.serve("/secret", CONTENT)
    with pytest.raises(DataError, match=r"does not fetch|holds a|has an? (host|address)|is not|carries a"):
        get(cache, f"http://{host}:{port_of(server)}/secret")
    assert not server.asked


@pytest.mark.parametrize(
    "address",
    [
        "127.0.0.1",
        "10.1.2.3",
        "100.64.0.1",
        "169.254.169.254",
        "168.63.129.16",
        "172.16.0.1",
        "192.168.1.1",
        "192.0.2.1",
        "0.0.0.0",  # noqa: S104  an address to refuse
        "224.0.0.1",
        "255.255.255.255",
        "::1",
        "::ffff:127.0.0.1",
        "64:ff9b::10.0.0.1",
        "2002:7f00:1::1",
        "2001:0:1::1",
        "fd00:ec2::254",
        "fe80::1",
        "fe80::1%lo",
        "ff02::1",
    ],
)
def test_name_that_leads_inside_is_refused_before_a_byte_is_sent(
    cache: Cache, monkeypatch: pytest.MonkeyPatch, address: str
) -> None:
    connected: list[object] = []
    monkeypatch.setattr(dial, "_to", lambda *args: connected.append(args))
    with (
        resolving(monkeypatch, {"evil.example": [[address]]}),
        pytest.raises(DataError, match=r"does not fetch from evil\.example:80: it is") as caught,
    ):
        get(cache, "http://evil.example/x")
    assert not connected
    assert address.partition("%")[0] not in str(caught.value), (
        "where a name leads inside is nobody's business"
    )


def test_one_forbidden_address_among_public_ones_refuses_the_name(
    cache: Cache, monkeypatch: pytest.MonkeyPatch
) -> None:
    connected: list[object] = []
    monkeypatch.setattr(dial, "_to", lambda *args: connected.append(args))
    with (
        resolving(monkeypatch, {"evil.example": [["93.184.216.34", "10.0.0.1"]]}),
        pytest.raises(DataError, match="does not fetch"),
    ):
        get(cache, "https://evil.example/x")
    assert not connected


def test_name_is_looked_up_once_and_exactly_that_address_is_connected_to(
    cache: Cache, monkeypatch: pytest.MonkeyPatch
) -> None:
    """DNS rebinding: the second answer leads to somebody else on this machine, who hears nothing."""
    with file_server() as victim:
        victim.serve("/x", b"the owner's")
        # 127.0.0.2 plays the public address; the victim answers at 127.0.0.1 of the same port.
        listening = socket.create_server(("127.0.0.2", port_of(victim)))
        listening.settimeout(10)
        heard: list[bytes] = []

        def answer() -> None:
            try:
                connection, _ = listening.accept()
            except OSError:
                return
            with connection:
                heard.append(connection.recv(4096))
                connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")

        thread = threading.Thread(target=answer, daemon=True)
        thread.start()
        with (
            listening,
            resolving(
                monkeypatch, {"rebind.example": [["127.0.0.2"], ["127.0.0.1"], ["127.0.0.1"]]}
            ) as resolver,
        ):
            path, _ = get(
                cache,
                f"http://rebind.example:{port_of(victim)}/x",
                "127.0.0.2/32:0".replace(":0", f":{port_of(victim)}"),
            )
            thread.join(10)
        assert path.read_bytes() == b"ok"
        assert resolver.asked == ["rebind.example"], "checked and connected by one look-up"
        assert b"Host: rebind.example:" in heard[0]
        assert not victim.asked


def test_name_that_turns_inside_between_two_tries_is_refused(
    server: FileServer, cache: Cache, monkeypatch: pytest.MonkeyPatch
) -> None:
    server.serve("/x", CONTENT)
    public = f"127.0.0.3:{port_of(server)}"  # plays a public address at which nobody answers
    with (
        resolving(monkeypatch, {"rebind.example": [["127.0.0.3"], ["127.0.0.1"]]}) as resolver,
        pytest.raises(DataError, match="it is an address that is not public"),
    ):
        get(cache, f"http://rebind.example:{port_of(server)}/x", public)
    assert resolver.asked == ["rebind.example"] * 2
    assert not server.asked


def test_redirect_to_a_forbidden_address_is_refused(server: FileServer, cache: Cache) -> None:
    with file_server() as victim:
        victim.serve("/latest/meta-data/iam", b"the owner's")
        listed = f"127.0.0.1:{port_of(server)}"
        for target in (
            f"{victim.url}/latest/meta-data/iam",
            f"//127.0.0.1:{port_of(victim)}/latest/meta-data/iam",
            f"http://localhost:{port_of(victim)}/x",
            f"http://2130706433:{port_of(victim)}/x",
            f"http://[::ffff:7f00:1]:{port_of(victim)}/x",
            f"http://127.0.0.1:{port_of(server)}@127.0.0.1:{port_of(victim)}/x",
            f"http://127.0.0.1:{port_of(victim)}\\@127.0.0.1:{port_of(server)}/x",
            "http://169.254.169.254/latest/meta-data/",
            "http://metadata.google.internal/computeMetadata/v1/",
            "file:///etc/passwd",
            "gopher://127.0.0.1:6379/_FLUSHALL",
            "s3://bucket/key",
            "hf://o/n/x",
        ):
            url = server.serve("/a", b"", status(302, Location=target))
            with pytest.raises(DataError):
                get(cache, url, listed)
        assert not victim.asked


def test_each_step_of_a_chain_is_judged_and_there_are_five(server: FileServer, cache: Cache) -> None:
    listed = f"127.0.0.1:{port_of(server)}"
    for step in range(9):
        server.serve(f"/{step}", b"", *[status(307, Location=f"/{step + 1}")] * 2)
    server.serve("/9", CONTENT)
    assert get(cache, f"{server.url}/4", listed)[0].read_bytes() == CONTENT
    with pytest.raises(DataError, match="redirects more than 5 times"):
        get(cache, f"{server.url}/3", listed)


def test_location_with_spaces_and_umlauts_is_followed(server: FileServer, cache: Cache) -> None:
    server.serve("/a%20b/%C3%BC", CONTENT)
    url = server.serve("/a", b"", status(302, Location="/a b/\u00fc".encode().decode("latin-1")))
    assert get(cache, url, f"127.0.0.1:{port_of(server)}")[0].read_bytes() == CONTENT


def test_owner_may_list_hosts_and_only_those_are_asked(server: FileServer, cache: Cache) -> None:
    url = server.serve("/x", CONTENT)
    port = port_of(server)
    assert get(cache, url, f"127.0.0.1:{port}")[0].read_bytes() == CONTENT
    local = url.replace("127.0.0.1", "localhost")
    assert get(cache, f"{local}?1", f"localhost:{port}")[0].read_bytes() == CONTENT
    asked = len(server.asked)
    for hosts in (
        (),
        (f"127.0.0.1:{port + 1}",),
        (f"127.0.0.2:{port}",),
        ("127.0.0.1",),
        (f"nas.lan:{port}",),
    ):
        with pytest.raises(DataError, match="allow_data_hosts"):
            get(cache, f"{url}?2", *hosts)
    assert len(server.asked) == asked


def test_this_machine_and_its_neighbours_are_inside_whatever_their_addresses(
    cache: Cache, monkeypatch: pytest.MonkeyPatch
) -> None:
    connected: list[object] = []
    monkeypatch.setattr(dial, "_to", lambda *args: connected.append(args))
    names = {"own.example": [["93.184.216.34"]], "near.example": [["2606:4700::5"]]}
    with resolving(monkeypatch, names):
        monkeypatch.setattr(neighbours, "is_own", lambda address: str(address) == "93.184.216.34")
        with pytest.raises(DataError, match="an address of this machine"):
            get(cache, "https://own.example/x")
        monkeypatch.setattr(neighbours, "networks", lambda: (ip_network("2606:4700::/64"),))
        with pytest.raises(DataError, match="the network that this machine stands in"):
            get(cache, "https://near.example/x")
    assert not connected


def test_ports_that_are_not_the_webs_are_refused(cache: Cache, monkeypatch: pytest.MonkeyPatch) -> None:
    with (
        resolving(monkeypatch, {"mail.example": [["93.184.216.34"]]}) as resolver,
        pytest.raises(DataError, match="port 25"),
    ):
        get(cache, "http://mail.example:25/x")
    assert not resolver.asked


@pytest.fixture
def trusting(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    folder = tmp_path / "tls"
    folder.mkdir()
    monkeypatch.setenv("SSL_CERT_FILE", str(folder / "cert.pem"))
    return folder


def test_tls_is_spoken_to_the_name_and_not_to_the_address(
    trusting: Path, cache: Cache, monkeypatch: pytest.MonkeyPatch
) -> None:
    with tls_server(trusting, "files.example") as files:
        files.serve("/x", CONTENT)
        listed = f"127.0.0.1:{port_of(files)}"
        names = {"files.example": [["127.0.0.1"]], "other.example": [["127.0.0.1"]]}
        with resolving(monkeypatch, names):
            assert get(cache, files.url + "/x", listed)[0].read_bytes() == CONTENT
            assert files.named == ["files.example"]  # type: ignore[attr-defined]
            assert files.asked[0].headers["host"] == f"files.example:{port_of(files)}"
            with pytest.raises(DataError, match="has no certificate that this machine trusts"):
                get(cache, files.url.replace("files", "other") + "/x", listed)
        assert len(files.asked) == 1


def test_redirect_from_https_to_http_is_refused_by_real_servers(
    server: FileServer, trusting: Path, cache: Cache
) -> None:
    server.serve("/x", CONTENT)
    with tls_server(trusting, "127.0.0.1") as files:
        url = files.serve("/a", b"", status(302, Location=f"{server.url}/x"))
        with pytest.raises(DataError, match="redirects from https to http"):
            get(cache, url, f"127.0.0.1:{port_of(files)}", f"127.0.0.1:{port_of(server)}")
    assert not server.asked


def test_token_goes_to_its_host_over_tls_and_only_where_the_owner_lends_it(
    trusting: Path, cache: Cache, monkeypatch: pytest.MonkeyPatch
) -> None:
    with tls_server(trusting, "hub.example", "cdn.example") as files:
        port = port_of(files)
        cdn = files.url.replace("hub", "cdn")
        files.serve("/org/model/resolve/main/a", b"", *[status(302, Location=f"{cdn}/blob")] * 9)
        files.serve("/org/model/resolve/main/moved", b"", status(307, Location="/org/model/resolve/main/b"))
        files.serve("/org/model/resolve/main/b", b"the owner's own")
        files.serve("/blob", CONTENT)
        env = {"HF_ENDPOINT": files.url, "HF_TOKEN": "hf_secret"}
        hosts = {"allow_data_hosts": (f"127.0.0.1:{port}",)}
        lent = of_rules(Rules(**hosts, data_credentials=("hf://org/model",)))
        other = of_rules(Rules(**hosts, data_credentials=("hf://org/other", "hf://datasets/org")))

        def tokens(url: str, terms: Terms) -> list[tuple[str, str | None]]:
            before = len(files.asked)
            get(cache, url, terms=terms, environ=env)
            return [(one.path, one.headers.get("authorization")) for one in files.asked[before:]]

        with resolving(monkeypatch, {"hub.example": [["127.0.0.1"]], "cdn.example": [["127.0.0.1"]]}):
            first = "/org/model/resolve/main/a"
            assert tokens("hf://org/model/a", lent) == [(first, "Bearer hf_secret"), ("/blob", None)]
            for terms in (of_rules(Rules(**hosts)), other):
                assert tokens("hf://org/model/a", terms) == [(first, None), ("/blob", None)]
            assert [token for _, token in tokens("hf://org/model/moved", lent)] == ["Bearer hf_secret"] * 2
            assert tokens(f"{files.url}{first}", lent)[0] == (first, None), "a plain URL is everybody's"
            for sneaky in (
                "hf://org/model/../other/b",
                "hf://org/model/%2e%2e/other/b",
                "hf://org/model@../b/x",
            ):
                with pytest.raises(DataError, match="not a Hugging Face URL"):
                    get(cache, sneaky, terms=lent, environ=env)
            files.serve("/org/model/resolve/main/gated", b"", status(401))
            with pytest.raises(DataError, match="data_credentials"):
                get(cache, "hf://org/model/gated", terms=other, environ=env)


def test_object_store_is_asked_without_the_owners_credentials_unless_they_are_lent(
    server: FileServer, cache: Cache, monkeypatch: pytest.MonkeyPatch
) -> None:
    listed = f"127.0.0.1:{port_of(server)}"
    public = {
        "s3": f"{server.url}/{{region}}s3/{{bucket}}/{{key}}",
        "gs": f"{server.url}/gs/{{bucket}}/{{key}}",
    }
    monkeypatch.setattr(doors, "PUBLIC", public)
    for name, value in {
        "AWS_ACCESS_KEY_ID": "owner",
        "AWS_SECRET_ACCESS_KEY": "owner",
        "AWS_ENDPOINT_URL": "http://127.0.0.1:1",
        "GOOGLE_SERVICE_ACCOUNT_KEY": "owner",
    }.items():
        monkeypatch.setenv(name, value)
    server.serve("/s3/public/dir/a%20b", b"", status(301, x_amz_bucket_region="eu-central-1"))
    server.serve("/eu-central-1.s3/public/dir/a%20b", CONTENT)
    server.serve("/gs/public/x", CONTENT)
    assert get(cache, "s3://public/dir/a%20b", listed)[0].read_bytes() == CONTENT
    assert get(cache, "gs://public/x", listed)[0].read_bytes() == CONTENT
    assert not any("authorization" in one.headers for one in server.asked)
    asked = len(server.asked)
    for url in (
        "s3://127.0.0.1:80/x/y",
        "s3://a@b/x",
        "s3://b/../c",
        "s3://b/%2e%2e/c",
        "s3://b/a?endpoint=http://127.0.0.1",
        "gs://b/a#x",
        "s3:///x",
    ):
        with pytest.raises(DataError, match=r"names no bucket|has a query"):
            get(cache, url, listed)
    with pytest.raises(DataError, match="account of the executor's owner"):
        get(cache, "az://container/x", listed)
    server.serve("/s3/evil/x", b"", status(301, x_amz_bucket_region="127.0.0.1/#"))
    with pytest.raises(DataError, match="answered 301"):
        get(cache, "s3://evil/x", listed)
    assert len(server.asked) == asked + 1


def test_owners_proxy_may_be_inside_and_literal_addresses_are_refused_through_it_too(
    server: FileServer, cache: Cache, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("http_proxy", server.url)
    server.files["http://known.example/x"] = Served(CONTENT)
    server.files["http://unknown.example/x"] = Served(CONTENT)
    names: dict[str, list[list[str]]] = {
        "known.example": [["93.184.216.34"]],
        "inside.example": [["10.0.0.5"]],
        "unknown.example": [[]],
    }
    with resolving(monkeypatch, names):
        assert get(cache, "http://known.example/x")[0].read_bytes() == CONTENT
        assert get(cache, "http://unknown.example/x")[0].read_bytes() == CONTENT, "only the proxy knows it"
        asked = len(server.asked)
        for url in (
            "http://inside.example/x",
            "http://127.0.0.1:1/x",
            "http://10.0.0.5/x",
            "http://169.254.169.254/x",
            "http://[::1]/x",
            "http://localhost/x",
            "http://router/x",
            "http://metadata.google.internal/x",
            "http://0x7f.1/x",
        ):
            with pytest.raises(DataError):
                get(cache, url)
    assert len(server.asked) == asked
    assert [one.path for one in server.asked] == ["http://known.example/x", "http://unknown.example/x"]


def test_signature_of_a_url_is_in_no_log_and_no_error_not_even_in_what_caused_it(
    server: FileServer, cache: Cache, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    listed, query = f"127.0.0.1:{port_of(server)}", "?X-Amz-Signature=SECRETQUERY"
    server.serve("/ok", CONTENT)
    server.serve("/gone", b"", status(410))
    server.serve("/redirect", b"", *[status(302, Location=f"http://10.0.0.1/{query}")] * 9)
    server.serve("/loop", b"", *[status(302, Location=f"/loop{query}")] * 9)
    server.serve("/cut", b"", *[raw(b"")] * 9)
    get(cache, f"{server.url}/ok{query}", listed)
    errors: list[BaseException] = []
    for url in (
        f"{server.url}/ok{query}#x",
        f"{server.url}/gone{query}",
        f"{server.url}/redirect{query}",
        f"{server.url}/loop{query}",
        f"{server.url}/cut{query}",
        f"http://127.0.0.1:1/x{query}",
        f"http://127.1/x{query}",
        f"http://no-such-host.example/x{query}",
        f"https://127.0.0.1:{port_of(server)}/x{query}",
        f"http://[::1/x{query}",
        f"http://a b/{query}",
        f"ftp://x/{query}",
        f"s3://b/x{query}",
        f"hf://o/n/x{query}",
        f"http://h/d/{query}",
    ):
        with pytest.raises(DataError) as caught:
            get(cache, url, listed, "127.0.0.1:1", sha256="0" * 64)
        errors.append(caught.value)
    for error in errors:
        step: BaseException | None = error
        while step is not None:
            assert "SECRETQUERY" not in f"{step!s} {step!r} {step.args} {getattr(step, 'mend', '')}"
            step = step.__cause__ or step.__context__
    assert "SECRETQUERY" not in caplog.text
    names = [str(path.relative_to(cache.root)) for path in cache.root.rglob("*")]
    notes = [path.read_text("latin-1") for path in cache.root.rglob("*") if path.is_file()]
    assert "SECRETQUERY" not in " ".join(names + notes)


def test_a_persons_own_fetch_may_go_anywhere(server: FileServer, cache: Cache) -> None:
    assert get(cache, server.serve("/x", CONTENT), terms=OWN)[0].read_bytes() == CONTENT


def test_private_bytes_are_not_found_by_who_only_knows_their_digest(server: FileServer, cache: Cache) -> None:
    digest = hashlib.sha256(CONTENT).hexdigest()
    terms = of_rules(Rules(allow_data_hosts=(f"127.0.0.1:{port_of(server)}",)))

    def asks(repository: str, url: str) -> bool:
        """Whether the bytes came; the cache is asked first."""
        source = DataSource(url=url, sha256=digest, path="x")
        told: dict[str, Any] = {"mounts": {}, "report": lambda *_: None, "stop": lambda: None, "terms": terms}
        return fetch(source, cache=cache, repository=repository, environ={}, **told)[1].cached

    signed = server.serve("/private", CONTENT) + "?X-Amz-Signature=abc"
    assert not asks("github.com/ada/lab", signed)
    assert asks("github.com/ada/lab", signed)
    for url in (f"{server.url}/nothing", f"{server.url}/nothing?guess"):
        with pytest.raises(DataError, match="answered 404"):
            asks("github.com/eve/lab", url)
    assert not asks("github.com/eve/lab", signed), "who may fetch it fetches it"
    public = server.serve("/public", CONTENT)
    assert not asks("github.com/eve/lab", public)
    assert asks("github.com/ada/lab", f"{server.url}/nothing")
