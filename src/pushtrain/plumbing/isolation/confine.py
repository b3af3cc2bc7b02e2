"""What a child does to itself before it becomes a command: the fields of `ports.Confinement`, applied.

The shim uses it, which has neither pydantic nor pathlib: only the standard library's cheap half is imported,
and what comes in is the JSON form. For everybody else it is a program, `python -I -S confine.py JSON UPLINK
WORDS…` (`plumbing/isolation/inside.py`), because a process with threads must not do all this between fork and
exec.

The order counts: files are opened and folders named while they still can be, an uplink is entered and another
user is become while capabilities allow it, and the filter comes last, because it refuses what the rest needs.
"""

import ctypes
import os
import sys
from _struct import pack

TYPE_CHECKING = False  # typing's own costs 10 ms
if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from typing import Any

if TYPE_CHECKING or __name__ == "pushtrain.plumbing.isolation.confine":
    from pushtrain.plumbing.isolation.apart import become_another, did, libc
else:
    sys.path.append(os.path.dirname(__file__))  # -I leaves it out: our other half lies beside us
    from apart import become_another, did, libc

CLONE_NEWUSER = 0x10000000
CLONE_NEWNET = 0x40000000
PR_SET_SECCOMP = 22
PR_CAPBSET_DROP = 24
PR_SET_SECUREBITS = 28
PR_SET_NO_NEW_PRIVS = 38
SECCOMP_MODE_FILTER = 2
SECBITS_LOCKED = 0xEF  # root is nobody special, and nobody changes that
CAPABILITIES_V3 = 0x20080522
LANDLOCK_CREATE_RULESET = 444
LANDLOCK_ADD_RULE = 445
LANDLOCK_RESTRICT_SELF = 446
LANDLOCK_RULE_PATH_BENEATH = 1
O_PATH = 0o10000000
APART = 200
"""Descriptors from here on are nobody's but ours."""

MARKS = ("PUSHTRAIN_ATTEMPT_ID", "PUSHTRAIN_PARENT")
"""By which processes of ours are found again (`plumbing/programs/proc.py`)."""
GIVEN = "PUSHTRAIN_INSIDE"
"""The variable that holds all variables of a command which is not started by a shim."""


class Unconfined(Exception):
    """A part of an enclosure cannot be made; the command must not run."""


def apply(
    wanted: "Mapping[str, Any]",
    *,
    lock: int,
    status: int,
    uplink: "Sequence[int]" = (),
    variables: bytes = b"",
) -> None:
    """Confine this process and everything that it becomes or starts.

    Args:
        wanted: A `Confinement` as JSON.
        lock: The attempt's lock, for the prefix.
        status: Where the prefix tells that it got inside.
        uplink: The attempt's: its network namespace, and the user namespace to enter before, if there is one.
        variables: The command's, for a prefix that reads them.

    Raises:
        OSError: A part of it cannot be done; the command must not be started then.
    """
    # Whatever number it came by: those below are given out to others.
    uplink = [os.dup2(one, APART + at, inheritable=False) for at, one in enumerate(uplink)]
    for given, number in ((lock, wanted["lock"]), (status, wanted["status"])):
        if number is not None:
            os.dup2(given, number)
    if wanted["variables"]:
        written = os.memfd_create("variables")
        os.write(written, variables)
        os.lseek(written, 0, os.SEEK_SET)
        os.dup2(written, wanted["variables"][0])
    for number, path in wanted["opened"].items():
        found = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        os.dup2(found, int(number))
    if wanted["held"]:
        hold_input()
    program = read(wanted["filter"]) if wanted["filter"] else b""
    ruleset = make_ruleset(wanted["landlock"]) if wanted["landlock"] else None
    if wanted["uplink"]:
        enter(uplink)
    if wanted["user"]:
        become_another(wanted["user"], wanted["groups"], wanted["trees"])
    if wanted["drop"]:
        drop_capabilities()
    refuse(ruleset, program, privileges=wanted["drop"])


def refuse(ruleset: "int | None", program: bytes, *, privileges: bool) -> None:
    """Have the kernel refuse us things, from now on and in all that we become."""
    if privileges or program or ruleset is not None:
        did(libc.prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0), "no_new_privs")
    if ruleset is not None:
        did(libc.syscall(LANDLOCK_RESTRICT_SELF, ruleset, 0), "Landlock")
    if program:
        put_on(program)


def hold_input() -> None:
    """Make standard input a pipe that ends when this process does: its other end stays open in it."""
    heard, held = os.pipe()
    os.dup2(heard, 0)
    os.set_inheritable(held, True)


def told(variables: "Mapping[str, str]", form: str) -> bytes:
    """A command's variables in the form that a prefix reads.

    Raises:
        OSError: A value cannot be told in it.
    """
    if form == "args":
        words = [word for name, value in variables.items() for word in ("--setenv", name, value)]
        return b"".join(os.fsencode(word) + b"\0" for word in words)
    broken = [name for name, value in variables.items() if "\n" in value]
    if broken:
        raise OSError(0, f"the variable {broken[0]} has more than one line, which no engine can be given")
    return b"".join(os.fsencode(f"{name}={value}\n") for name, value in variables.items())


def enclosed(
    enclosure: "Mapping[str, Any]",
    argv: "list[str]",
    variables: "Mapping[str, str]",
    *,
    lock: int,
    status: int,
    uplink: "Sequence[int]" = (),
) -> None:
    """Become a command inside its enclosure.

    Args:
        enclosure: An `Enclosure` as JSON.
        argv: The command.
        variables: All its variables.
        lock: As for `apply`.
        status: Likewise.
        uplink: Likewise.

    Raises:
        OSError: It cannot be executed.
        Unconfined: A part of the enclosure cannot be made.
    """
    wanted = enclosure["confinement"]
    variables = {**variables, **enclosure["env"]}
    try:
        given = told(variables, wanted["variables"][1]) if wanted["variables"] else b""
        apply(wanted, lock=lock, status=status, uplink=uplink, variables=given)
    except OSError as error:
        raise Unconfined(str(error)) from None
    if wanted["variables"]:
        marks = {name: variables[name] for name in MARKS if name in variables}
        variables = {**enclosure["outside"], **marks}
    prefix = [os.getcwd() if word == "{cwd}" else word for word in enclosure["prefix"]]
    execute([*prefix, *argv], variables)


def execute(argv: "list[str]", env: "Mapping[str, str]") -> None:
    """Become a program, looked for in the `PATH` it will have.

    What `os.execvpe` does, which imports a module first: from inside our own library may be out of reach.

    Raises:
        OSError: It cannot be executed.
    """
    name = argv[0]
    refused: OSError | None = None
    folders = env.get("PATH", os.defpath).split(":") if "/" not in name else [""]
    for folder in folders:
        path = name if "/" in name else f"{folder or '.'}/{name}"
        try:
            os.execve(path, argv, env)  # noqa: S606  no shell is the point
        except (FileNotFoundError, NotADirectoryError) as error:
            refused = refused or error
        except PermissionError as error:
            refused = error
    if refused is not None:
        raise refused


def read(path: str) -> bytes:
    """A whole file."""
    with open(path, "rb", buffering=0) as file:
        return file.read() or b""


def enter(uplink: "Sequence[int]") -> None:
    """Enter an uplink's namespaces."""
    if not uplink:
        raise OSError(0, "the attempt has no uplink")
    kinds = (CLONE_NEWUSER, CLONE_NEWNET)[-len(uplink) :]
    for descriptor, kind in zip(reversed(uplink), kinds, strict=True):
        did(libc.setns(descriptor, kind), "the uplink")


def drop_capabilities() -> None:
    """Give up every capability, also those that root's programs get by being root's."""
    number = 0
    while libc.prctl(PR_CAPBSET_DROP, number, 0, 0, 0) == 0:
        number += 1
    libc.prctl(PR_SET_SECUREBITS, SECBITS_LOCKED, 0, 0, 0)  # no_new_privs keeps the rest of us to it
    header = ctypes.create_string_buffer(pack("Ii", CAPABILITIES_V3, 0), 8)
    did(libc.capset(header, ctypes.create_string_buffer(24)), "capabilities")


def make_ruleset(wanted: "Mapping[str, Any]") -> int:
    """Tell the kernel what is to be allowed; the descriptor stands for it."""
    attribute = pack("QQQ", wanted["files"], 0, wanted["scoped"])
    size = len(attribute) if wanted["scoped"] else 8
    made = libc.syscall(LANDLOCK_CREATE_RULESET, attribute, ctypes.c_size_t(size), 0)
    ruleset = did(made, "Landlock")
    os.set_inheritable(ruleset, False)
    for path, rights in wanted["rules"]:
        found = os.open(path, O_PATH | os.O_CLOEXEC)
        rule = pack("=Qi", rights, found)
        did(
            libc.syscall(LANDLOCK_ADD_RULE, ruleset, LANDLOCK_RULE_PATH_BENEATH, rule, 0),
            f"Landlock: {path}",
        )
        os.close(found)
    return ruleset


def put_on(program: bytes) -> None:
    """Put on a system call filter."""
    instructions = ctypes.create_string_buffer(program, len(program))
    header = pack("HP", len(program) // 8, ctypes.addressof(instructions))
    did(libc.prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, header, 0, 0), "the filter of system calls")


def main() -> None:
    """Become a command inside its enclosure; there is no lock, and nobody asks how it goes inside."""
    import json

    os.umask(0o022)  # others, who have other uids, read what is made here

    nothing = os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC)
    enclosure, given, *words = sys.argv[1:]
    uplink = tuple(map(int, given.split(","))) if given else ()
    for one in uplink:
        os.set_inheritable(one, False)
    variables = json.loads(os.environ.pop(GIVEN))
    variables |= {name: os.environ[name] for name in MARKS if name in os.environ}
    try:
        enclosed(json.loads(enclosure), words, variables, lock=nothing, status=nothing, uplink=uplink)
    except Unconfined as error:
        sys.stderr.write(f"pushtrain: the sandbox could not be made: {error}\n")
    except OSError as error:
        sys.stderr.write(f"pushtrain: {words[0]} cannot be executed: {error}\n")
    sys.exit(126)


if __name__ == "__main__":
    main()
