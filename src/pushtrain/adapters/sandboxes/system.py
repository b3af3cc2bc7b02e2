"""What of the machine every job may read: programs, libraries, and what its processors are like."""

from typing import Final

PROGRAMS: Final = (
    "/usr",
    "/bin",
    "/sbin",
    "/lib",
    "/lib32",
    "/lib64",
    "/libx32",
    "/opt",
    "/nix/store",
    "/gnu/store",
    "/run/current-system",
    "/run/opengl-driver",
    "/sys/devices/system",
)
"""Read-only, where they are."""

RESOLVERS: Final = (
    "/run/systemd/resolve/resolv.conf",
    "/run/systemd/resolve/stub-resolv.conf",
    "/run/NetworkManager/resolv.conf",
    "/run/resolvconf/resolv.conf",
    "/mnt/wsl/resolv.conf",
)
"""Where `/etc/resolv.conf` leads on the usual systems; of `/run` nothing else is ever shown."""
