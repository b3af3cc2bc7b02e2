"""A job's matrix: which cells it has, and how their values get into `command` and `env`.

GitHub Actions' semantics. Every combination of the axes is a cell, first axis slowest; `exclude` removes the
cells that hold all its pairs; then each `include` entry, in order, extends every original cell whose axes it
does not contradict, or becomes a cell of its own where there is none. Values are put in as plain text, as
Actions does: they come from the same file as the command, so quoting is the command's business.
"""

import itertools
import math
import re
from collections.abc import Mapping
from typing import Final

from pydantic import Field

from pushtrain.core.text.forms import Wrong, did_you_mean, kind, listed, scalar_problem, written
from pushtrain.core.text.reading import Table
from pushtrain.core.values.value import Scalar, Value

MAX_CELLS: Final = 256
MAX_NAMES: Final = 64
_MAX_COMBINATIONS: Final = 1024
_NAME: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_-]{0,63}")
_EXPRESSION: Final = re.compile(r"\$\{\{([^{}]*)\}\}")
_REFERENCE: Final = re.compile(r"matrix\.([A-Za-z_][A-Za-z0-9_-]*)")
_RESERVED: Final = ("include", "exclude", "max_parallel")

Cell = dict[str, Scalar]


class Matrix(Value):
    """The axes of a job and their exceptions."""

    axes: dict[str, tuple[Scalar, ...]] = Field(default_factory=dict)
    include: tuple[Cell, ...] = ()
    exclude: tuple[Cell, ...] = ()
    max_parallel: int | None = None

    @property
    def names(self) -> tuple[str, ...]:
        """Every name that some cell may have."""
        return tuple(dict.fromkeys([*self.axes, *(name for entry in self.include for name in entry)]))


def cells(matrix: Matrix) -> tuple[Cell, ...]:
    """The matrix's cells in their order.

    Raises:
        Wrong: There is no cell, one occurs twice, or there are too many.
    """
    few = f"Split the job, or narrow it with `exclude`; a matrix has at most {MAX_CELLS} cells."
    if math.prod(len(values) for values in matrix.axes.values()) > _MAX_COMBINATIONS:
        raise Wrong("has far too many cells", few)
    combinations: list[Cell] = []
    if matrix.axes:
        combinations = [
            dict(zip(matrix.axes, values, strict=True)) for values in itertools.product(*matrix.axes.values())
        ]
    originals = [cell for cell in combinations if not any(_excludes(entry, cell) for entry in matrix.exclude)]
    found = [dict(cell) for cell in originals]
    for entry in matrix.include:
        extended = False
        for original, cell in zip(originals, found, strict=False):
            if all(name not in original or same(original[name], value) for name, value in entry.items()):
                cell.update(entry)
                extended = True
        if not extended:
            found.append(dict(entry))
    if not found:
        raise Wrong("leaves no cell", "Give it an axis, as in `lr = [0.1, 0.01]`, or exclude less.")
    if len(found) > MAX_CELLS:
        raise Wrong(f"has {len(found)} cells", few)
    seen = {
        frozenset((name, isinstance(value, bool), value) for name, value in cell.items()) for cell in found
    }
    if len(seen) < len(found):
        raise Wrong("has the same cell twice", "Leave one of them; each cell is one run.")
    return tuple(found)


def same(one: Scalar, other: Scalar) -> bool:
    """Whether two scalars are one value: 1 is 1.0, but true is not 1."""
    return isinstance(one, bool) == isinstance(other, bool) and one == other


def _excludes(entry: Cell, cell: Cell) -> bool:
    return all(name in cell and same(cell[name], value) for name, value in entry.items())


def fill(text: str, cell: Mapping[str, Scalar]) -> str:
    """`text` with every `${{ matrix.NAME }}` replaced; a name that this cell lacks becomes nothing."""

    def value(match: re.Match[str]) -> str:
        reference = _REFERENCE.fullmatch(match[1].strip())
        return written(cell.get(reference[1], "")) if reference else match[0]

    return _EXPRESSION.sub(value, text)


def references(text: str) -> bool:
    """Whether the text asks for a matrix value."""
    return any(expression.strip().startswith("matrix") for expression in _EXPRESSION.findall(text))


def check_references(text: str, names: tuple[str, ...]) -> None:
    """See that each `${{ … }}` of a text can be filled.

    Raises:
        Wrong: One is not `matrix.NAME`, or names what the matrix does not have.
    """
    for expression in _EXPRESSION.findall(text):
        reference = _REFERENCE.fullmatch(expression.strip())
        shown = f"`${{{{{expression}}}}}`"
        if not reference:
            mend = "Only `${{ matrix.NAME }}` is known; the commit is in $GITHUB_SHA."
            raise Wrong(f"holds {shown}, which is not understood", mend)
        if not names:
            raise Wrong(
                f"holds {shown}, but the job has no matrix", "Add `[job.NAME.matrix]`, or write the value."
            )
        if reference[1] not in names:
            mend = did_you_mean(reference[1], names) or f"The matrix has {listed(names)}."
            raise Wrong(f"holds {shown}, which the matrix does not have", mend)


def read(table: Table) -> Matrix:
    """The matrix in a `[job.NAME.matrix]` table; mistakes go to the table's notes."""
    most = table.number("max_parallel", least=1, most=MAX_CELLS)
    include = tuple(
        _entry(entry) for entry in table.tables("include", "Write `include = [{lr = 0.1, seed = 7}]`.")
    )
    excluding = table.tables("exclude", "Write `exclude = [{lr = 0.1, seed = 7}]`.")
    axes = {}
    for name, value in table.data.items():
        if name not in _RESERVED:
            table.known.append(name)
            if values := _axis(table, name, value):
                axes[name] = values
    exclude = []
    for entry in excluding:
        exclude.append(_entry(entry))
        for name in itertools.islice(entry.data, MAX_NAMES):
            if name not in table.data or name in _RESERVED:
                mend = did_you_mean(name, axes) or f"The axes are {listed(axes)}."
                entry.wrong(name, entry.data[name], "excludes by a name that is no axis", mend)
    matrix = Matrix(axes=axes, include=include, exclude=tuple(exclude), max_parallel=int(most) or None)
    _check_names(table, matrix)
    return matrix


def _axis(table: Table, name: str, value: object) -> tuple[Scalar, ...]:
    mend = f"Write its values as a list, as in `{name} = [0.1, 0.01]`."
    if not isinstance(value, list) or not value:
        problem = "is an axis without values" if value == [] else "is not an axis: a list of values"
        table.wrong(name, value, problem, did_you_mean(name, _RESERVED) or mend)
        return ()
    for item in value:
        if problem := scalar_problem(item):
            table.wrong(name, item, f"holds a value that {problem}", mend)
            return ()
    for one, other in itertools.combinations(value[: MAX_CELLS + 1], 2):
        if same(one, other):
            table.wrong(name, one, "holds a value twice", "Leave one of them.")
            return ()
    return tuple(value)


def _entry(table: Table) -> Cell:
    entry: Cell = {}
    if not table.data:
        table.notes.add(table.path, None, "is empty", "Name at least one value, as in `{lr = 0.1}`.")
    for name, value in table.data.items():
        if problem := scalar_problem(value):
            mend = f"Write one value, as in `{name} = 0.1`."
            table.wrong(name, value if kind(value) != "a table" else None, problem, mend)
        else:
            entry[name] = value  # type: ignore[assignment]
    return entry


def _check_names(table: Table, matrix: Matrix) -> None:
    names = matrix.names
    if len(names) > MAX_NAMES:
        mend = "Read long lists from a file, and give its name."
        table.notes.add(table.path, None, f"has {len(names)} names; at most {MAX_NAMES} are read", mend)
        return
    variables: dict[str, str] = {}
    for name in names:
        if not _NAME.fullmatch(name):
            table.wrong(name, None, "is not a name", "Use letters, digits, `_` and `-`, a letter first.")
        variable = name.upper().replace("-", "_")
        if variable in variables:
            mend = f"Both would be PUSHTRAIN_PARAM_{variable}; rename one."
            table.wrong(name, None, f"is too like `{variables[variable]}`", mend)
        variables[variable] = name
