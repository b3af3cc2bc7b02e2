"""A job gets the devices of its GPUs alone: on a `/dev` and a `/proc` as NVIDIA's driver makes them."""

import os
import subprocess
from pathlib import Path

import pytest

from pushtrain.adapters.sandboxes import Ground
from pushtrain.adapters.sandboxes.sandbox import Bubblewrap
from pushtrain.core.errors import ConfigError
from pushtrain.core.values.isolation import JobNetwork
from pushtrain.plumbing.isolation.inside import command
from pushtrain.plumbing.machine import gpu as gpus
from pushtrain.plumbing.machine import gpudevices
from pushtrain.ports import Cage
from pushtrain.testing import a_gpu
from pushtrain.testing.nvml import FakeCard, FakeNvml


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Two cards, the second of which is the driver's first."""
    dev = tmp_path / "dev"
    dev.mkdir()
    for name in ("nvidiactl", "nvidia-uvm", "nvidia-uvm-tools", "nvidia0", "nvidia1", "null", "sda"):
        (dev / name).touch()
        (dev / name).chmod(0o666)
    for bus, uuid, minor in (("0000:01:00.0", "GPU-a", 1), ("0000:41:00.0", "GPU-b", 0)):
        folder = tmp_path / "proc/driver/nvidia/gpus" / bus
        folder.mkdir(parents=True)
        (folder / "information").write_text(
            f"Model: \t\t NVIDIA H100\nIRQ:   \t\t 77\nGPU UUID: \t {uuid}\nBus Location: \t {bus}\n"
            f"Device Minor: \t {minor}\n"
        )
    return tmp_path


def names(root: Path, *uuids: str) -> list[str]:
    found = gpudevices.devices([a_gpu(uuid=uuid) for uuid in uuids], root=root)
    return [str(path.relative_to(root / "dev")) for path in found]


def test_a_job_gets_the_node_of_its_card_by_the_drivers_own_number(root: Path) -> None:
    common = ["nvidiactl", "nvidia-uvm", "nvidia-uvm-tools"]
    assert names(root, "GPU-a") == [*common, "nvidia1"]
    assert names(root, "GPU-b") == [*common, "nvidia0"]
    assert names(root, "GPU-a", "GPU-b") == [*common, "nvidia1", "nvidia0"]


def test_a_job_without_gpus_gets_no_device(root: Path) -> None:
    assert names(root) == []


def test_a_card_that_the_driver_does_not_know_is_an_error(root: Path) -> None:
    with pytest.raises(ConfigError, match="GPU-c cannot be found"):
        names(root, "GPU-c")


def test_a_node_that_is_not_there_is_an_error_with_the_command_that_makes_it(root: Path) -> None:
    (root / "dev/nvidia-uvm").unlink()
    with pytest.raises(ConfigError, match="nvidia-uvm is not there") as refused:
        names(root, "GPU-a")
    assert "`sudo nvidia-modprobe -u -c 0`" in str(refused.value)


def test_a_slice_is_its_cards_node_and_its_own_two_capabilities(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    slices = [FakeCard(uuid="MIG-1"), FakeCard(uuid="MIG-2")]
    monkeypatch.setattr(gpus, "pynvml", FakeNvml([FakeCard(bus="00000000:01:00.0", slices=slices)]))
    (root / "dev/nvidia-caps").mkdir()
    for number in (66, 67, 75, 76):
        (root / f"dev/nvidia-caps/nvidia-cap{number}").touch()
    for instance, number in ((7, 66), (8, 75)):
        folder = root / f"proc/driver/nvidia/capabilities/gpu1/mig/gi{instance}"
        (folder / "ci0").mkdir(parents=True)
        (folder / "access").write_text(f"DeviceFileMinor: {number}\nDeviceFileMode: 292\n")
        (folder / "ci0" / "access").write_text(f"DeviceFileMinor: {number + 1}\n")
    found = names(root, "MIG-2")
    assert found[-3:] == ["nvidia1", "nvidia-caps/nvidia-cap75", "nvidia-caps/nvidia-cap76"]
    assert "nvidia-caps/nvidia-cap66" not in found


def test_under_wsl_the_one_device_of_all_cards_is_given(root: Path) -> None:
    (root / "dev/dxg").touch()
    assert names(root, "GPU-a") == ["dxg"]


def test_a_device_that_only_a_group_may_open_makes_roots_job_a_member(root: Path) -> None:
    card = root / "dev/nvidia0"
    card.chmod(0o660)
    if os.getuid() == 0:
        os.chown(card, 0, 4242)
        assert gpudevices.groups([card, root / "dev/nvidiactl"]) == (4242,)
    card.chmod(0o600)
    with pytest.raises(ConfigError, match=r"nvidia0 may be opened by root alone.*`sudo chmod 0666"):
        gpudevices.groups([card])


@pytest.mark.parametrize("mode", [0o666, 0o660])
def test_roots_job_really_opens_the_device(
    mode: int, root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if os.getuid():
        pytest.skip("only root makes devices")
    node = root / "dev/nvidia7"
    os.mknod(node, 0o020000 | mode, os.makedev(1, 5))  # /dev/zero's
    node.chmod(mode)
    os.chown(node, 0, 4242)
    monkeypatch.setattr(gpudevices, "devices", lambda _: (node,))
    enclosure = Bubblewrap(Ground(tmp_path / "isolation")).enclose(Cage(gpus=(a_gpu(),)))
    argv, env = command(
        enclosure, ("sh", "-c", f"head -c1 {node} | wc -c; echo >{node}"), {"PATH": "/usr/bin:/bin"}
    )
    done = subprocess.run(argv, env=env, capture_output=True, text=True, check=False)
    assert (done.stdout, done.returncode) == ("1\n", 0), done.stderr


def test_the_sandbox_shows_these_devices_and_no_others(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = gpudevices.devices
    monkeypatch.setattr(gpudevices, "devices", lambda given: whole(given, root=root))
    sandbox = Bubblewrap(Ground(tmp_path / "isolation"))
    words = sandbox.enclose(Cage(network=JobNetwork.FULL, gpus=(a_gpu(uuid="GPU-b"),))).prefix
    bound = [words[at + 2] for at, word in enumerate(words) if word == "--dev-bind"]
    assert [Path(path).name for path in bound] == ["nvidiactl", "nvidia-uvm", "nvidia-uvm-tools", "nvidia0"]
    assert "--dev-bind" not in sandbox.enclose(Cage(network=JobNetwork.FULL)).prefix
