"""The ssh tunnel: the system's OpenSSH client through a real sshd."""

import asyncio
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import urllib3
from pydantic import ValidationError

from pushtrain.adapters.tunnels import checked
from pushtrain.adapters.tunnels.ssh import Ssh
from pushtrain.adapters.tunnels.static import Static
from pushtrain.core.errors import ConfigError, Unreachable
from pushtrain.core.settings import ExecutorSettings
from pushtrain.plumbing.programs import orphans, proc
from pushtrain.testing import wait_until
from sshd import Sshd, free_port, sshd
from tunnel_world import greeting, kept, post, story

__all__ = ["sshd"]

OWN = "http://127.0.0.1:{port}"


@pytest.fixture
def local() -> Iterator[int]:
    with greeting() as port:
        yield port


def tunnel(sshd: Sshd, *, alive: int = 15, timeout: float = 20, **settings: Any) -> Ssh:
    found = ExecutorSettings(ssh_target="gpu", ssh_config=str(sshd.config), **settings)
    return kept(Ssh(found, alive=alive, timeout=timeout))


def own(sshd: Sshd, **settings: Any) -> Ssh:
    """A tunnel through a server of one's own."""
    return tunnel(sshd, **{"public_url": OWN, **settings})


@story
async def test_it_comes_up_on_a_port_that_the_server_chooses(sshd: Sshd, local: int) -> None:
    ssh = own(sshd)
    began = time.monotonic()
    url = await ssh.open("127.0.0.1", local)
    assert time.monotonic() - began < 5
    assert url.startswith("http://127.0.0.1:")
    assert await post(f"{url}/v1/runs?a=b", b"x" * 300_000) == "/v1/runs?a=b 300000"
    await ssh.close()
    with pytest.raises(urllib3.exceptions.HTTPError):
        await post(url, b"")


@story
async def test_it_listens_where_it_is_told_and_the_url_may_be_another(sshd: Sshd, local: int) -> None:
    remote = free_port()
    ssh = own(sshd, ssh_remote=f"127.0.0.1:{remote}", public_url="https://gpu.example/")
    assert await ssh.open("127.0.0.1", local) == "https://gpu.example"
    assert await post(f"http://127.0.0.1:{remote}", b"abc") == "/ 3"


@story
async def test_a_port_that_is_taken_is_explained_and_leaves_no_process(sshd: Sshd, local: int) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        ssh = own(sshd, ssh_remote=f"127.0.0.1:{port}")
        with pytest.raises(Unreachable, match=f"refuses to listen on 127.0.0.1:{port}") as caught:
            await ssh.open("127.0.0.1", local)
    assert "--ssh-remote" in caught.value.mend
    await ssh.close()
    assert not clients(sshd)


@story
async def test_a_key_that_may_only_forward_one_port_is_enough(sshd: Sshd, local: int) -> None:
    mine, other = free_port(), free_port()
    sshd.authorize(f'restrict,port-forwarding,permitlisten="127.0.0.1:{mine}"')
    ssh = own(sshd, ssh_remote=f"127.0.0.1:{mine}")
    assert await post(await ssh.open("127.0.0.1", local), b"ab") == "/ 2"
    await ssh.close()
    refused = own(sshd, ssh_remote=f"127.0.0.1:{other}")
    with pytest.raises(Unreachable, match="not allowed to this key"):
        await refused.open("127.0.0.1", local)


@story
async def test_a_key_that_the_server_refuses_is_explained(sshd: Sshd, local: int) -> None:
    sshd.be("stranger")
    ssh = own(sshd)
    with pytest.raises(ConfigError, match="refuses our key") as caught:
        await ssh.open("127.0.0.1", local)
    assert "`ssh gpu`" in caught.value.mend


@story
async def test_a_server_that_is_not_known_is_not_trusted_unasked(sshd: Sshd, local: int) -> None:
    sshd.be("client", known="nobody")
    ssh = own(sshd)
    with pytest.raises(ConfigError, match="not known to this machine"):
        await ssh.open("127.0.0.1", local)


@story
async def test_a_server_that_is_down_is_said_so(sshd: Sshd, local: int) -> None:
    sshd.stop()
    ssh = own(sshd)
    with pytest.raises(Unreachable, match="cannot be reached"):
        await ssh.open("127.0.0.1", local)


@story
async def test_a_server_that_never_answers_is_given_up(sshd: Sshd, local: int) -> None:
    sshd.freeze()
    ssh = own(sshd, timeout=1)
    with pytest.raises(Unreachable, match=r"within 1 s|cannot be reached"):
        await ssh.open("127.0.0.1", local)
    await ssh.close()
    assert not clients(sshd)


@story
async def test_the_end_of_the_server_is_noticed_at_once_and_it_comes_up_again(sshd: Sshd, local: int) -> None:
    ssh = own(sshd)
    await ssh.open("127.0.0.1", local)
    began = time.monotonic()
    sshd.stop()
    why = await asyncio.wait_for(ssh.lost(), 10)
    assert time.monotonic() - began < 2
    assert "closed by remote host" in why
    await ssh.close()
    sshd.start()
    assert await post(await ssh.open("127.0.0.1", local), b"ab") == "/ 2"


@pytest.mark.slow
@story
async def test_a_frozen_server_is_noticed_by_the_keep_alive(sshd: Sshd, local: int) -> None:
    ssh = own(sshd, alive=1)
    await ssh.open("127.0.0.1", local)
    sshd.freeze()
    assert "not responding" in await asyncio.wait_for(ssh.lost(), 10)


@story
async def test_ssh_killed_by_somebody_is_a_loss_with_a_reason(sshd: Sshd, local: int) -> None:
    ssh = own(sshd)
    await ssh.open("127.0.0.1", local)
    (pid,) = clients(sshd)
    os.kill(pid, signal.SIGKILL)
    assert "ended with -9" in await asyncio.wait_for(ssh.lost(), 10)


# --- services that print a URL ----------------------------------------------------------------------------


def service(folder: Path, text: str) -> str:
    """Options of a key whose session prints this, and goes on."""
    (folder / "banner").write_text(text)
    return f'command="cat {folder / "banner"}; exec cat"'


@pytest.mark.parametrize(
    "text",
    [
        "\x1b[1mWelcome\x1b[0m: https://admin.example\r\na1b2.lhr.life tunneled with tls termination, https://a1b2.lhr.life\r\n",
        "\x1b[32mForwarding HTTP traffic from https://a1b2.lhr.life\x1b[0m\n",
    ],
)
@story
async def test_the_url_is_read_from_what_a_service_prints(sshd: Sshd, local: int, text: str) -> None:
    sshd.authorize(service(sshd.folder, text))
    ssh = tunnel(sshd, ssh_remote=str(free_port()))
    assert await ssh.open("127.0.0.1", local) == "https://a1b2.lhr.life"
    await ssh.close()
    assert not clients(sshd)


@story
async def test_a_service_of_another_kind_needs_only_a_pattern(sshd: Sshd, local: int) -> None:
    remote = free_port()
    sshd.authorize(service(sshd.folder, f"url=<http://127.0.0.1:{remote}>\n"))
    ssh = tunnel(sshd, ssh_remote=str(remote), ssh_pattern="url=<(.*)>")
    assert await post(await ssh.open("127.0.0.1", local), b"ab") == "/ 2"


@story
async def test_a_service_that_prints_no_url_is_given_up_with_a_mend(sshd: Sshd, local: int) -> None:
    sshd.authorize(service(sshd.folder, "Hello.\n" + "x" * 100_000))
    ssh = tunnel(sshd, timeout=1.5, ssh_remote=str(free_port()))
    with pytest.raises(Unreachable, match="printed no URL") as caught:
        await ssh.open("127.0.0.1", local)
    assert "ssh_pattern" in caught.value.mend


@story
async def test_a_service_cannot_make_us_publish_what_is_no_address(sshd: Sshd, local: int) -> None:
    sshd.authorize(service(sshd.folder, "url=<javascript:alert(1)>\n"))
    ssh = tunnel(sshd, ssh_remote=str(free_port()), ssh_pattern="url=<(.*)>")
    with pytest.raises(ConfigError, match="cannot use as an address"):
        await ssh.open("127.0.0.1", local)


# --- the process ------------------------------------------------------------------------------------------


def clients(sshd: Sshd) -> list[int]:
    """The `ssh` processes that use this server's configuration."""
    found = []
    for pid in proc.descendants(os.getpid()):
        try:
            words = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
        except OSError:
            continue
        if words[0] == b"ssh" and str(sshd.config).encode() in words:
            found.append(pid)
    return found


def test_an_ssh_that_outlives_a_killed_executor_is_ended_by_the_next(sshd: Sshd, local: int) -> None:
    script = (
        "import asyncio, sys\nfrom pathlib import Path\nfrom pushtrain.adapters.tunnels.ssh import Ssh\n"
        "from pushtrain.plumbing.programs import orphans\norphans.take_over(Path(sys.argv[4]))\n"
        "from pushtrain.core.settings import ExecutorSettings\n"
        "async def main():\n"
        "    ssh = Ssh(ExecutorSettings(ssh_target='gpu', ssh_config=sys.argv[1], public_url=sys.argv[2]))\n"
        "    print(await ssh.open('127.0.0.1', int(sys.argv[3])), flush=True)\n"
        "    await ssh.lost()\n"
        "asyncio.run(main())\n"
    )
    with subprocess.Popen(
        (sys.executable, "-c", script, sshd.config, OWN, str(local), sshd.config.parent),
        stdout=subprocess.PIPE,
        text=True,
    ) as child:
        try:
            assert child.stdout is not None
            assert child.stdout.readline().startswith("http://127.0.0.1:")
            (pid,) = clients(sshd)
            start = proc.start_time(pid)
        finally:
            child.kill()
    assert start is not None
    assert proc.alive(pid, start)
    orphans.take_over(sshd.config.parent)
    wait_until(lambda: not proc.alive(pid, start), what="the orphan's end")


def test_the_command_line_holds_safe_options_and_the_target_last() -> None:
    settings = ExecutorSettings(ssh_target="me@gpu.example", public_url=OWN)
    argv = Ssh(settings).argv("::1", 8421)
    assert argv[-4:] == ("-R", "0:[::1]:8421", "--", "me@gpu.example")
    assert {"BatchMode=yes", "ExitOnForwardFailure=yes", "ForwardAgent=no"} <= set(argv)
    assert not any("StrictHostKeyChecking" in word for word in argv)


@pytest.mark.parametrize(
    "target",
    ["-oProxyCommand=touch x", "me@-oProxyCommand=x", "a b", "$(x)@h", "h;x", "me@h`x`", "h\nx", "ssh://-x"],
)
def test_a_target_that_could_be_an_option_or_a_command_is_refused(target: str) -> None:
    with pytest.raises(ValidationError):
        ExecutorSettings(ssh_target=target)


@pytest.mark.parametrize(
    "target", ["h", "me@h", "ssh://me@h:2222", "first.last@10.0.0.1", "me@[::1]", "a-b_c.d"]
)
def test_what_ssh_takes_is_taken(target: str) -> None:
    assert ExecutorSettings(ssh_target=target).ssh_target == target


@pytest.mark.parametrize("remote", ["-1", "80:localhost:22", "a b:80", "80 -oX=y", "123456"])
def test_a_place_to_listen_that_means_more_is_refused(remote: str) -> None:
    with pytest.raises(ValidationError):
        ExecutorSettings(ssh_remote=remote)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({}, "needs a server"),
        ({"ssh_target": "h", "ssh_pattern": "("}, "no regular expression"),
        ({"ssh_target": "h", "public_url": "gpu.example"}, "cannot use as an address"),
    ],
)
def test_what_is_wrong_in_the_settings_is_said_before_anything_starts(
    settings: dict[str, Any], words: str
) -> None:
    with pytest.raises(ConfigError, match=words) as caught:
        Ssh(ExecutorSettings(**settings))
    assert caught.value.mend


@story
async def test_without_the_program_the_mend_names_its_package(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    ssh = Ssh(ExecutorSettings(ssh_target="h", public_url=OWN))
    with pytest.raises(ConfigError, match="`ssh` cannot be started") as caught:
        await ssh.open("127.0.0.1", 1)
    assert "openssh-client" in caught.value.mend


# --- somebody else's tunnel -------------------------------------------------------------------------------


@story
async def test_a_static_url_is_up_at_once_and_for_good() -> None:
    static = Static(ExecutorSettings(public_url="https://gpu.example/"))
    assert await static.open("127.0.0.1", 1) == "https://gpu.example"
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(static.lost(), 0.01)
    await static.close()


def test_a_static_tunnel_without_a_url_says_where_to_write_it() -> None:
    with pytest.raises(ConfigError, match="needs the URL") as caught:
        Static(ExecutorSettings())
    assert "--public-url" in caught.value.mend


@pytest.mark.parametrize(
    "url",
    [
        "ftp://h",
        "https://",
        "https://h?x=1",
        "https://h#x",
        "http://h:99999",
        "http://h:0",
        "h",
        "http://h\n",
    ],
)
def test_only_a_plain_url_is_published(url: str) -> None:
    with pytest.raises(ConfigError, match="cannot use as an address"):
        checked(url, "It")


def test_a_password_in_a_url_is_not_repeated() -> None:
    with pytest.raises(ConfigError) as caught:
        checked("https://me:hunter2@gpu.example", "It")
    assert "hunter2" not in str(caught.value)
