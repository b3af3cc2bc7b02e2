"""Whom a command goes to, and what each answer means."""

from pushtrain.core.errors import Busy, ConfigError, Draining, Forbidden, Unauthorized
from pushtrain.core.values.jobspec import Resources
from pushtrain.sender.delivery import Delivered, Executors, Refused, Undelivered
from pushtrain.testing import Clock, a_capacity, a_command, a_gpu, a_spec
from sender_world import ScriptedExecutor


def test_a_command_goes_to_the_executor_that_has_room() -> None:
    busy, free = ScriptedExecutor("busy"), ScriptedExecutor("free")
    busy.capacity = a_capacity(free_slots=0, queued=3)
    places: list[str] = []
    result = Executors(lambda: [busy, free]).deliver(a_command(), "", places.append)
    assert isinstance(result, Delivered)
    assert result.executor is free
    assert places == [free.id]
    assert not busy.received


def test_a_command_goes_only_where_it_fits() -> None:
    small, large = ScriptedExecutor("small"), ScriptedExecutor("large")
    large.card = large.card.model_copy(update={"gpus": (a_gpu(),)})
    command = a_command(job=a_spec(resources=Resources(gpus=1)))
    assert isinstance(Executors(lambda: [small, large]).deliver(command, "", lambda _: None), Delivered)
    assert large.received
    result = Executors(lambda: [small]).deliver(command, "", lambda _: None)
    assert result == Undelivered("no executor fits: small has 0 GPUs; the job asks for 1", stays=False)


def test_another_executor_is_tried_after_a_failed_challenge_or_a_definite_refusal() -> None:
    down, closed, full, open_ = (
        ScriptedExecutor("a"),
        ScriptedExecutor("b"),
        ScriptedExecutor("c"),
        ScriptedExecutor("d"),
    )
    down.down = True
    closed.refusal = Forbidden("Not here.")
    full.refusal = Busy("Full.")
    result = Executors(lambda: [down, closed, full, open_]).deliver(a_command(), "", lambda _: None)
    assert isinstance(result, Delivered)
    assert result.executor is open_


def test_a_lost_answer_binds_the_command_to_its_executor() -> None:
    first, second = ScriptedExecutor("a"), ScriptedExecutor("b")
    first.loses_answers = True
    executors = Executors(lambda: [first, second])
    lost = executors.deliver(a_command(), "", lambda _: None)
    assert lost == Undelivered("The answer of a was lost.", stays=True)
    first.loses_answers = False
    again = executors.deliver(a_command(), first.id, lambda _: None)
    assert isinstance(again, Delivered)
    assert first.received == [a_command().run_id] * 2
    assert not second.received


def test_a_refused_signature_is_tried_again_there_and_never_sends_the_command_elsewhere() -> None:
    first, second = ScriptedExecutor("a"), ScriptedExecutor("b")
    first.refusal = Unauthorized("The clocks differ.")
    result = Executors(lambda: [first, second]).deliver(a_command(), "", lambda _: None)
    assert result == Undelivered("The clocks differ.", stays=True)
    assert not second.received


def test_a_bound_command_waits_for_its_executor_even_when_another_one_is_free() -> None:
    first, second = ScriptedExecutor("a"), ScriptedExecutor("b")
    first.down = True
    result = Executors(lambda: [first, second]).deliver(a_command(), first.id, lambda _: None)
    assert result == Undelivered("a does not answer.", stays=True)
    assert not second.received


def test_a_bound_command_follows_its_executor_to_another_address() -> None:
    first, second = ScriptedExecutor("a"), ScriptedExecutor("b")
    moved = ScriptedExecutor("a")
    moved.id = first.id  # the same key, another URL
    result = Executors(lambda: [second, moved]).deliver(a_command(), first.id, lambda _: None)
    assert isinstance(result, Delivered)
    assert (result.executor, second.received) == (moved, [])


def test_a_command_whose_executor_is_no_longer_known_waits_for_it() -> None:
    second = ScriptedExecutor("b")
    result = Executors(lambda: [second]).deliver(a_command(), "SHA256:gone", lambda _: None)
    assert result == Undelivered("the executor that may have it is not known any more", stays=True)


def test_a_command_that_everybody_refuses_is_refused_with_the_reason() -> None:
    one = ScriptedExecutor("a")
    one.refusal = ConfigError("No such mount.")
    result = Executors(lambda: [one]).deliver(a_command(), "", lambda _: None)
    assert isinstance(result, Refused)
    assert result.error is one.refusal


def test_a_full_executor_is_asked_again_later() -> None:
    one = ScriptedExecutor("a")
    one.refusal = Busy("Full.", mend="Later.")
    assert Executors(lambda: [one]).deliver(a_command(), "", lambda _: None) == Undelivered(
        "Full. Later.", stays=False
    )


def test_a_draining_executor_keeps_nothing_and_another_one_gets_it() -> None:
    draining, other = ScriptedExecutor("a"), ScriptedExecutor("b")
    draining.refusal = Draining("It drains.")
    other.capacity = a_capacity(free_slots=0)
    alone = Executors(lambda: [draining]).deliver(a_command(), "", lambda _: None)
    assert alone == Undelivered("It drains.", stays=False)
    result = Executors(lambda: [draining, other]).deliver(a_command(), draining.id, lambda _: None)
    assert result == Undelivered("It drains.", stays=True), "the one that may have it is asked first"
    result = Executors(lambda: [draining, other]).deliver(a_command(), "", lambda _: None)
    assert isinstance(result, Delivered)
    assert result.executor is other


def test_without_executors_a_command_waits() -> None:
    assert Executors(list).deliver(a_command(), "", lambda _: None) == Undelivered(
        "no executor is known", stays=False
    )


def test_who_an_executor_is_was_asked_before_and_counts_for_a_while() -> None:
    clock, one = Clock(), ScriptedExecutor("a")
    executors = Executors(lambda: [one], clock=clock)
    executors.deliver(a_command(request="ask"), "", lambda _: None)
    executors.deliver(a_command(), "", lambda _: None)
    assert one.asked == 1
    clock.advance(61)
    executors.deliver(a_command(), "", lambda _: None)
    assert one.asked == 2


def test_where_there_is_a_choice_free_room_counts_for_seconds_only() -> None:
    clock, one, two = Clock(), ScriptedExecutor("a"), ScriptedExecutor("b")
    executors = Executors(lambda: [one, two], clock=clock)
    executors.deliver(a_command(request="ask"), "", lambda _: None)
    clock.advance(3)
    executors.deliver(a_command(request="ask"), "", lambda _: None)
    assert (one.asked, two.asked) == (2, 2)


def test_an_executor_that_is_down_is_not_asked_for_every_command() -> None:
    clock, one = Clock(), ScriptedExecutor("a")
    one.down = True
    executors = Executors(lambda: [one], clock=clock)
    for _ in range(5):
        executors.deliver(a_command(), "", lambda _: None)
    assert one.asked == 1
    clock.advance(3)
    one.down = False
    assert isinstance(executors.deliver(a_command(), "", lambda _: None), Delivered)


def test_a_refusal_is_not_the_last_word_while_another_executor_is_busy_or_down() -> None:
    closed, other = ScriptedExecutor("a"), ScriptedExecutor("b")
    closed.refusal = Forbidden("Not here.")
    other.down = True
    executors = Executors(lambda: [closed, other], clock=iter(range(0, 10_000, 10)).__next__)
    assert executors.deliver(a_command(), "", lambda _: None) == Undelivered(
        "b does not answer.", stays=False
    )
    other.down, other.refusal = False, Busy("Full.")
    assert executors.deliver(a_command(), "", lambda _: None) == Undelivered("Full.", stays=False)
    other.refusal = None
    assert isinstance(executors.deliver(a_command(), "", lambda _: None), Delivered)


def test_an_executor_that_went_away_since_it_was_asked_has_taken_nothing_on() -> None:
    gone, other = ScriptedExecutor("a"), ScriptedExecutor("b")
    executors = Executors(lambda: [gone, other])
    executors.deliver(a_command(request="ask"), "", lambda _: None)
    gone.down = True
    result = executors.deliver(a_command(), "", lambda _: None)
    assert isinstance(result, Delivered)
    assert result.executor is other
    alone = Executors(lambda: [gone])
    gone.down = False
    alone.deliver(a_command(request="ask"), "", lambda _: None)
    gone.down = True
    assert alone.deliver(a_command(), "", lambda _: None) == Undelivered("a does not answer.", stays=False)
    assert alone.deliver(a_command(), gone.id, lambda _: None) == Undelivered(
        "a does not answer.", stays=True
    )
