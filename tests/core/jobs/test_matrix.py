"""The matrix, by the examples of GitHub's documentation and by its laws."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pushtrain.core.jobs.matrix import Cell, Matrix, cells, check_references, fill, same
from pushtrain.core.text.forms import Wrong


def test_include_extends_cells_as_in_githubs_example() -> None:
    # "Expanding or adding matrix configurations" in GitHub's page on running variations of jobs.
    matrix = Matrix(
        axes={"fruit": ("apple", "pear"), "animal": ("cat", "dog")},
        include=(
            {"color": "green"},
            {"color": "pink", "animal": "cat"},
            {"fruit": "apple", "shape": "circle"},
            {"fruit": "banana"},
            {"fruit": "banana", "animal": "cat"},
        ),
    )
    assert list(cells(matrix)) == [
        {"fruit": "apple", "animal": "cat", "color": "pink", "shape": "circle"},
        {"fruit": "apple", "animal": "dog", "color": "green", "shape": "circle"},
        {"fruit": "pear", "animal": "cat", "color": "pink"},
        {"fruit": "pear", "animal": "dog", "color": "green"},
        {"fruit": "banana"},
        {"fruit": "banana", "animal": "cat"},
    ]
    assert matrix.names == ("fruit", "animal", "color", "shape")


def test_exclude_removes_every_cell_that_holds_all_its_pairs() -> None:
    # "Excluding matrix configurations": twelve combinations, of which three and one fall away.
    matrix = Matrix(
        axes={
            "os": ("macos", "windows"),
            "version": (12, 14, 16),
            "environment": ("staging", "production"),
        },
        exclude=(
            {"os": "macos", "version": 12, "environment": "production"},
            {"os": "windows", "version": 16},
        ),
    )
    found = cells(matrix)
    assert len(found) == 9
    assert {"os": "macos", "version": 12, "environment": "production"} not in found
    assert not any(cell["os"] == "windows" and cell["version"] == 16 for cell in found)


def test_include_comes_after_exclude_and_may_bring_a_cell_back() -> None:
    matrix = Matrix(axes={"a": (1, 2)}, exclude=({"a": 1},), include=({"a": 1, "b": 5},))
    assert list(cells(matrix)) == [{"a": 2}, {"a": 1, "b": 5}]


def test_includes_alone_are_cells_of_their_own() -> None:
    matrix = Matrix(include=({"site": "production"}, {"site": "staging"}))
    assert list(cells(matrix)) == [{"site": "production"}, {"site": "staging"}]


def test_a_partial_exclude_removes_a_whole_row() -> None:
    assert list(cells(Matrix(axes={"a": (1, 2), "b": (1, 2)}, exclude=({"a": 1},)))) == [
        {"a": 2, "b": 1},
        {"a": 2, "b": 2},
    ]


def test_true_is_not_one_but_one_is_one_point_zero() -> None:
    assert same(1, 1.0)
    assert not same(True, 1)
    assert not same("1", 1)
    assert list(cells(Matrix(axes={"a": (True, 1)}, exclude=({"a": 1},)))) == [{"a": True}]


def test_cells_that_differ_only_in_type_are_different_cells() -> None:
    assert len(cells(Matrix(axes={"a": (True, 1, "1", "true")}))) == 4


def test_numbers_are_filled_in_as_python_writes_them() -> None:
    cell: Cell = {"a": 1e-5, "b": 3.0, "c": 10, "d": False, "e": "x y"}
    text = "${{ matrix.a }} ${{matrix.b}} ${{ matrix.c}} ${{ matrix.d }} '${{ matrix.e }}'"
    assert fill(text, cell) == "1e-05 3.0 10 false 'x y'"


def test_only_matrix_values_are_filled_in() -> None:
    assert fill("${{ github.sha }} ${HOME}", {"sha": "x"}) == "${{ github.sha }} ${HOME}"
    with pytest.raises(Wrong, match="not understood"):
        check_references("${{ github.sha }}", ("sha",))


AXES = st.dictionaries(
    st.sampled_from(["a", "b", "c"]),
    st.lists(st.integers(0, 3), min_size=1, max_size=3, unique=True).map(tuple),
    min_size=1,
)


@given(AXES, st.dictionaries(st.sampled_from(["a", "b"]), st.integers(0, 3), min_size=1))
def test_the_cells_are_the_product_of_the_axes_without_the_excluded(
    axes: dict[str, tuple[int, ...]], entry: dict[str, int]
) -> None:
    everything = cells(Matrix(axes=axes))
    size = 1
    for values in axes.values():
        size *= len(values)
    assert len(everything) == size
    kept = [cell for cell in everything if any(cell.get(name) != value for name, value in entry.items())]
    if kept:
        assert list(cells(Matrix(axes=axes, exclude=(entry,)))) == kept


@given(AXES, st.integers(0, 3))
def test_an_include_never_changes_an_axis_of_an_original_cell(
    axes: dict[str, tuple[int, ...]], value: int
) -> None:
    originals = cells(Matrix(axes=axes))
    widened = cells(Matrix(axes=axes, include=({"a": value, "extra": 1},)))
    for original, cell in zip(originals, widened, strict=False):
        assert {name: cell[name] for name in original} == original
    assert any(cell.get("extra") == 1 and cell["a"] == value for cell in widened)
