"""What a setting with a least or a most takes, said of a value that is beyond: as the file would write it."""

from typing import Final, get_args

from pydantic.fields import FieldInfo

from pushtrain.core.owner.ruling import amount, spoken
from pushtrain.core.text.units import Duration, Size

_READERS: Final = {
    get_args(Duration)[1]: (spoken, " s"),
    get_args(Size)[1]: (lambda count: amount(int(count)), " B"),
}
"""How a number of that kind is said, and what it counts."""


def told(name: str, info: FieldInfo, kind: str, value: object) -> tuple[str, str, str]:
    """A value that is beyond, what it must be, and the mend.

    Args:
        name: The setting's own, where it stands in the file; empty: a variable or a flag has it.
        info: What it takes.
        kind: What pydantic calls it: `greater_than`, `less_than` or one with `_equal`.
        value: As it was read.
    """
    said, unit = next((_READERS[mark] for mark in info.metadata if mark in _READERS), (None, ""))

    def shown(number: float) -> str:
        return said(number) if said is not None and number else _plain(number)

    def written(number: float) -> str:
        """`100`, or `"1h"` where a unit belongs to it."""
        if said is None or not number:
            text = shown(number)
        else:
            text = shown(number).replace(" ", "").replace("min", "m")  # as `core.text.forms` reads it
            text = f'"{text}"' if name else text
        return f"`{name} = {text}`" if name else text

    bounds: dict[str, float] = {
        word: getattr(mark, word)
        for mark in info.metadata
        for word in ("ge", "gt", "le")
        if hasattr(mark, word)
    }
    least, above, most = (bounds.get(word) for word in ("ge", "gt", "le"))
    low = f"more than {shown(above)}" if above is not None else f"{shown(least or 0)} or more"
    if most is None:
        must = low
    elif above is None:
        must = f"from {shown(least or 0)} to {shown(most)}"
    else:
        must = f"{low} and at most {shown(most)}"
    if kind.startswith("less") and most is not None:
        mend = f"Write {written(most)} or less."
    elif least is not None:
        mend = f"Write {written(least)} or more."
    else:
        mend = f"Write for example {written(info.default)}."
    return (f"{_plain(value)}{unit}" if isinstance(value, (int, float)) else f"{value}"), must, mend


def _plain(number: float) -> str:
    return f"{int(number) if number == int(number) else number}"
