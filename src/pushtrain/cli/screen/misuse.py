"""What is wrong with the words of a command line, said as every other error is: what, why, the mend."""

from enum import Enum
from typing import Any, Final, Literal, get_args, get_origin

from cyclopts import (
    App,
    CoercionError,
    CycloptsError,
    MissingArgumentError,
    RepeatArgumentError,
    UnknownCommandError,
    UnknownOptionError,
    UnusedCliTokensError,
    ValidationError,
)

from pushtrain.core.text.forms import did_you_mean, listed

_LONGEST: Final = 60
_KINDS: Final = {int: "a whole number", float: "a number", bool: "true or false"}


def misused(error: CycloptsError, app: App) -> tuple[str, str]:
    """What is wrong, and the mend.

    Args:
        error: What the parser says.
        app: The verb's, as it was called.
    """
    words = " ".join(error.command_chain or ())
    see = f"See `pushtrain {words} --help`." if words else "`pushtrain --help` lists the verbs."
    match error:
        case UnknownCommandError(unused_tokens=[word, *_]) if not words:
            return f"There is no option `{_cut(word)}`.", see
        case UnknownCommandError(unused_tokens=[word, *_]):
            below = [name for name in error.app or () if not name.startswith("-")]
            return f"There is no verb `{words} {_cut(word)}`.", did_you_mean(word, below) or see
        case UnusedCliTokensError(unused_tokens=[word, *more]):
            below = [name for name in app[words] if not name.startswith("-")] if words in app else []
            told = ", ".join(f"`{_cut(each)}`" for each in (word, *more))
            return f"`{words}` takes no {told}.", did_you_mean(word, below) or see
        case UnknownOptionError():
            flag = (error.token.keyword or error.token.value).partition("=")[0]
            flags = [name for one in error.argument_collection for name in one.names if name.startswith("--")]
            return f"`{words}` takes no `{_cut(flag)}`.", did_you_mean(flag, flags) or see
        case MissingArgumentError():
            name = error.keyword or (error.argument.name if error.argument else "a value")
            return (f"`{name}` needs a value." if name.startswith("-") else f"`{words}` needs {name}."), see
        case RepeatArgumentError():
            return f"`{error.token.keyword}` is given more than once.", "Give it once."
        case CoercionError(argument=argument, token=token) if argument is not None and token is not None:
            shown = _shown(token.keyword or argument.name, token.value)
            return f"{shown} is {_unlike(error.target_type)}.", see
        case ValidationError(argument=argument) if argument is not None and argument.tokens:
            shown = _shown(argument.tokens[0].keyword or argument.name, argument.tokens[0].value)
            bound = error.exception_message.replace(">= ", "at least ").replace("<= ", "at most ")
            return f"{shown}: it {bound[:1].lower()}{bound[1:].rstrip('.')}.", see
    return f"{error}".strip(), see


def _unlike(kind: Any) -> str:
    """What a word of another kind is not."""
    if get_origin(kind) is Literal:
        return f"none of {listed([str(each) for each in get_args(kind)])}"
    if isinstance(kind, type) and issubclass(kind, Enum):
        return f"none of {listed([str(each.value) for each in kind])}"
    return f"not {_KINDS.get(kind, 'what it takes')}"


def _shown(name: str, value: str) -> str:
    return f"`{name} {_cut(value)}`" if name.startswith("-") else f"`{_cut(value)}`"


def _cut(word: str) -> str:
    return word if len(word) <= _LONGEST else f"{word[:_LONGEST]}…"
