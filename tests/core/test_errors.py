"""Errors: what, why and the mend; each with a code of its own."""

from pushtrain.core.errors import Conflict, PushtrainError, Unauthorized


def test_an_error_says_what_why_and_the_mend() -> None:
    assert str(PushtrainError("It broke.", mend="Mend it.")) == "It broke. Mend it."
    assert str(PushtrainError("It broke.")) == "It broke."
    assert (Unauthorized.exit_code, Unauthorized.status) == (4, 401)


def test_every_error_has_a_code_of_its_own_and_a_status() -> None:
    def below(kind: type[PushtrainError]) -> list[type[PushtrainError]]:
        return [kind, *(found for child in kind.__subclasses__() for found in below(child))]

    ours = [kind for kind in below(PushtrainError) if kind.__module__ == "pushtrain.core.errors"]
    assert len({kind.code for kind in ours}) == len(ours)
    assert all(400 <= kind.status < 600 and kind.exit_code > 0 for kind in ours)
    assert issubclass(ours[-1], PushtrainError)
    assert Conflict.status == 409
