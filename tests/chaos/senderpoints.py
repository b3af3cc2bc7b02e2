"""Every step of a push's way at which a sender can be killed: counted, then killed there, one by one.

    python tests/chaos/senderpoints.py               # all of them; a few minutes
    python tests/chaos/senderpoints.py moves kept    # those of the ways with these words in their names

The sender is what `pushtrain sender` and `pushtrain send` run, in a process of its own: it watches a real Git
host on loopback and speaks signed HTTP with real executors. It is killed at the n-th step of a `Way`; the
next one starts on the same folder, and then every command must be where it belongs, once.
"""

import asyncio
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Final

sys.path.insert(0, str(Path(__file__).parents[1]))

from senderworld import SECRET, SENDS, Place, World, worlds

from nursery import NEVER, Steps, settled
from pushtrain.core.lifecycle import PrepareFailed, Requeued
from pushtrain.core.values.states import Reason
from pushtrain.core.wire.grants import Scope
from pushtrain.core.wire.signing import fingerprint
from pushtrain.plumbing.disk.state import StateFolder

# --- in the process that is killed ------------------------------------------------------------------------


def be_sender(state: str, at: str, told: str) -> None:
    """`pushtrain sender`, killed at a step; a recall and a loss do not take the time that they take else."""
    from pushtrain.cli.room import run_until_stopped, served
    from pushtrain.sender import placement
    from pushtrain.wiring.rooms import serve_sender

    setattr(placement, "RECALL_AFTER", 0.1)  # noqa: B010  it is Final
    folder = StateFolder(Path(state))
    Steps(int(at), Path(told)).durable()
    settings = served(folder, ())
    impatient = settings.sender.model_copy(update={"lost_after": 0.3})
    settings = settings.model_copy(update={"sender": impatient})
    asyncio.run(run_until_stopped(serve_sender(folder, settings), "sender", as_json=True))


def be_send(state: str, at: str, told: str) -> None:
    """`pushtrain send` in a clone, killed at a step."""
    from pushtrain.cli.send import send

    Steps(int(at), Path(told)).durable()
    send(state=Path(state))


# --- in the process that looks on -------------------------------------------------------------------------


@dataclass(frozen=True)
class Way:
    """What a sender does while it is killed.

    A way's `prepare` makes the world; `acts` is what people do once the sender runs; `done` is whether it has
    got there; `again` is what is done before the next sender starts; `wanted` is which runs may start then,
    where, as which attempt, marked as a possible duplicate or not.
    """

    name: str
    prepare: Callable[[World], None]
    done: Callable[[World], bool]
    wanted: Callable[[World], list[Place]]
    role: str = SENDS
    acts: Callable[[World], None] = lambda _: None
    again: Callable[[World], None] = lambda _: None


def _one(attempt: int = 0, name: str = "lab-1", *, duplicate: bool = False) -> Callable[[World], list[Place]]:
    return lambda world: [(world.commands[-1].run_id, name, attempt, duplicate)]


def _nobody(_: World) -> list[Place]:
    return []


def _last_there(world: World) -> bool:
    return world.there(world.commands[-1])


def _pushed(world: World) -> None:
    world.know(world.executor("lab-1"))
    world.push()


def _watching(world: World) -> None:
    world.know(world.executor("lab-1"))


def _hooked(world: World) -> None:
    """Push once the sender listens, or has been killed: the host tells it."""
    world.until(lambda: world.listening() or world.dead, "its address")
    if url := world.listening():
        world.host.notify(url, SECRET.encode())
    world.push()


def _quiet(world: World) -> None:
    world.host.quiet()
    if not world.commands:
        world.push()


def _refused(world: World) -> None:
    world.know(world.executor("lab-1", scopes=(Scope.READ,)))
    world.push()


def _refused_visibly(world: World) -> bool:
    out = world.rows().get(world.commands[0].run_id)
    return out is not None and out.state == "refused" and bool(out.detail)


def _waits_at_the_first(world: World) -> None:
    first = world.executor("lab-1", busy=True)
    world.know(first)
    command = world.push()
    world.start()
    world.until(lambda: world.there(command, first), "the first delivery")
    world.stop()
    world.know(first, world.executor("lab-2"))


def _unready_at_the_first(world: World) -> None:
    """Its executor could not prepare a run, and is free; there is another one."""
    _waits_at_the_first(world)
    store = world.executors[0].store
    (waits,) = world.runs(world.executors[0])
    other = next(run for run in store.runs() if run.id != waits.id)
    store.advance(other.id, PrepareFailed(Reason.DATA, "It is not there."), token=other.token)
    claimed = store.claim(slots=2, gpus=world.executors[0].service.gpus, executor="lab-1")
    assert claimed
    run, attempt = claimed
    tried = attempt.model_copy(update={"reason": Reason.STORAGE, "ended_at": time.time()})
    later = Requeued(Reason.STORAGE, "No space left.", time.time() + 600)
    store.advance(run.id, later, token=run.token, attempt=tried)


def _moved(world: World) -> bool:
    return world.there(world.commands[0], world.executors[1])


def _first_has_it(world: World) -> bool:
    return world.there(world.commands[0], world.executors[0])


def _silent(world: World) -> None:
    """An executor that may have a command does not answer, and there is another one."""
    world.know(world.executor("lab-1"), silent=True)
    command = world.commit()
    with closing(world.store()) as store:
        store.settle_push(None, [command], "sent by hand", executor=fingerprint(world.silent.public_key()))


def _kept_by_one(world: World) -> None:
    """`pushtrain send` was killed when an executor had begun it; the sender knows the command by a push."""
    first, second = world.executor("lab-1"), world.executor("lab-2")
    world.know(first, second)
    command = world.commit()
    first.store.accept(
        command,
        sender=fingerprint(world.key.public_key()),
        raw=b"{}",
        headers={},
        nonce="n",
        nonce_expires=9e9,
        queue_limit=9,
    )
    assert first.store.claim(slots=1, gpus=first.service.gpus, executor="lab-1")
    with closing(world.store()) as store:
        store.settle_push(None, [command], "a push")
    entry = world.kept.keep(command)
    assert entry
    with entry:
        entry.place(fingerprint(first.key.public_key()))


def _kept(world: World) -> None:
    """What a killed `pushtrain send` left: one that nobody has."""
    world.know(world.executor("lab-1"))
    entry = world.kept.keep(world.commit())
    assert entry
    entry.close()


def _cancelled(world: World) -> None:
    """A command that waits for an executor, and a person who does not want it any more."""
    world.know()
    command = world.commit()
    with closing(world.store()) as store:
        store.settle_push(None, [command], "sent by hand")
    world.kept.wish_cancel(command.run_id)


def _dropped(world: World) -> bool:
    out = world.rows().get(world.commands[0].run_id)
    return out is not None and out.state == "cancelled" and not world.kept.wishes()


def _somebody_comes(world: World) -> None:
    world.know(world.executor("lab-1"))


def _overtaken(world: World) -> None:
    """A command waits for an executor, and a newer push takes its place."""
    world.know()
    older = world.push()
    world.start()
    world.until(lambda: older.run_id in world.rows(), "the older command")
    world.stop()
    world.push()


def _overtaken_done(world: World) -> bool:
    rows = world.rows()
    return rows[world.commands[0].run_id].state == "cancelled" and world.commands[1].run_id in rows


def _by_hand(world: World) -> None:
    world.know(world.executor("lab-1"))
    world.work.git("checkout", "--quiet", "-b", "aside")
    world.commit()
    world.work.push("aside")


def _sent(world: World) -> bool:
    return world.dead and len(world.alive()) == 1


def _empty(world: World) -> None:
    world.begin()
    world.know()


WAYS: Final = (
    Way("a first start", _empty, World.seen, _nobody),
    Way("a push that is found by looking", _pushed, _last_there, _one()),
    Way(
        "a push that a webhook tells of",
        _watching,
        lambda world: bool(world.commands) and _last_there(world),
        _one(),
        acts=_hooked,
        again=_quiet,
    ),
    Way("a push that is refused", _refused, _refused_visibly, _nobody),
    Way("a run that moves", _waits_at_the_first, _moved, _one(1, "lab-2")),
    Way("a run that moves from a machine without room", _unready_at_the_first, _moved, _one(1, "lab-2")),
    Way("a silent executor", _silent, _last_there, _one(1, duplicate=True)),
    Way("a kept command that an executor has", _kept_by_one, _first_has_it, _one()),
    Way("a kept command", _kept, _last_there, _one()),
    Way("a wish to cancel", _cancelled, _dropped, _nobody, again=_somebody_comes),
    Way("a newer push", _overtaken, _overtaken_done, _nobody),
    Way("`pushtrain send`", _by_hand, _sent, _one(), role="senderpoints:be_send"),
)


def count(way: Way, world: World) -> list[str]:
    """The steps of a way that nobody disturbs."""
    try:
        way.prepare(world)
        world.start(way.role, at=NEVER - 1)
        way.acts(world)
        world.until(lambda: way.done(world), way.name)
        return settled(world.told, lambda: True, what=way.name)
    finally:
        world.host.quiet()
        world.close()


def killed_at(way: Way, world: World, at: int) -> list[str]:
    """Kill a sender at a step, start the next one; what is wrong afterwards."""
    try:
        way.prepare(world)
        child = world.start(way.role, at=at)
        way.acts(world)
        world.until(lambda: child.dead or way.done(world), "its end")
        world.stop()
        way.again(world)
        world.start(way.role)
        world.until(lambda: way.done(world) and not world.left(), f"{way.name}, again")
        world.stop()
        found, wanted = world.alive(), way.wanted(world)
    except AssertionError as error:
        return [str(error)]
    else:
        return [] if found == wanted else [f"{found} may start, not {wanted}"]
    finally:
        world.host.quiet()
        world.close()


def main() -> int:
    """Kill at every step of every way; 1 where something was lost."""
    wrong = total = 0
    with tempfile.TemporaryDirectory(prefix="pushtrain-crash-") as name, worlds(Path(name)) as world:
        for number, way in enumerate(WAYS):
            if sys.argv[1:] and not any(word in way.name for word in sys.argv[1:]):
                continue
            steps = count(way, world(f"w{number}"))
            print(f"{way.name}: {len(steps)} steps", flush=True)  # noqa: T201
            for at, step in enumerate(steps, 1):
                faults = killed_at(way, world(f"w{number}-{at}"), at)
                wrong += bool(faults)
                total += 1
                print(f"{at:4} {step}: {'; '.join(faults) or 'recovered'}", flush=True)  # noqa: T201
    print(f"{total} steps, {wrong} of them not recovered from")  # noqa: T201
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
