"""Sparse matrices from files. What is wrong with one is found in a process of its own: SciPy may crash on it."""

import multiprocessing
import zipfile
from collections import defaultdict
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from scipy import sparse

from cascadexml.data.sparse_files import read_npz
from cascadexml.errors import DataError

FORMATS = ("csr", "csc", "coo")
Cells = dict[tuple[int, int], float]


def read_and_check(path: Path) -> str | tuple[tuple[int, int], Cells]:
    """The refusal, or the shape and the cells of a matrix that SciPy's own full check passes."""
    try:
        Y = read_npz(path)
    except DataError as error:
        return str(error)
    Y.check_format(full_check=True)
    assert Y.has_canonical_format
    triples = Y.tocoo()
    return Y.shape, dict(zip(zip(triples.row.tolist(), triples.col.tolist(), strict=True), triples.data, strict=True))


@pytest.fixture(scope="module")
def child() -> Iterator[ProcessPoolExecutor]:
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        yield pool


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("matrices") / "Y.npz"


CSR: dict[str, Any] = {
    "format": b"csr",
    "shape": np.array([2, 2]),
    "data": np.ones(2, np.float32),
    "indices": np.array([0, 1], np.int32),
    "indptr": np.array([0, 1, 2], np.int32),
}
COO: dict[str, Any] = {
    "format": b"coo",
    "shape": np.array([2, 2]),
    "data": np.ones(2, np.float32),
    "row": np.array([0, 1]),
    "col": np.array([1, 0]),
}


@pytest.mark.parametrize(
    ("arrays", "said"),
    [
        (CSR | {"indptr": np.array([0, 1000, -1])}, "indptr holds -1 to 1000, expected numbers from 0 to 2"),
        (CSR | {"indptr": np.array([0, 2, 1, 2]), "shape": np.array([3, 2])}, "indptr does not rise from 0 to 2"),
        (CSR | {"indptr": np.array([1, 1, 2])}, "indptr does not rise from 0 to 2"),
        (CSR | {"indptr": np.array([0, 2])}, "indptr has 2 entries, expected 3"),
        (CSR | {"indptr": np.array([0, 1, 2, 2])}, "indptr has 4 entries, expected 3"),
        (CSR | {"indptr": np.array([], np.int32)}, "indptr has 0 entries, expected 3"),
        (CSR | {"indptr": np.array([0.0, 1.0, np.nan])}, "indptr is 1-dimensional float64"),
        (CSR | {"indptr": np.array([[0, 1, 2]])}, "indptr is 2-dimensional int64"),
        (CSR | {"format": b"csc", "indices": np.array([0, 10**7])}, "indices holds 0 to 10000000"),
        (CSR | {"indices": np.array([0, -1])}, "indices holds -1 to 0"),
        (CSR | {"indices": np.array([0, 2**64 - 1], np.uint64)}, "indices holds 0 to 18446744073709551615"),
        (CSR | {"indices": np.array([0, 2**32 + 1])}, "indices holds 0 to 4294967297"),
        (CSR | {"indices": np.array(["0", "1"])}, "indices is 1-dimensional <U1"),
        (CSR | {"indices": np.array([0])}, "indices has shape (1,), data has (2,)"),
        (CSR | {"data": np.array(["a", "b"])}, "data is 1-dimensional <U1"),
        (CSR | {"data": np.array([1, None], object)}, "Object arrays cannot be loaded"),
        (CSR | {"data": np.array([1, 1j])}, "data is 1-dimensional complex128"),
        (CSR | {"data": np.array([1, np.nan])}, "data holds a value that is not finite"),
        (CSR | {"shape": np.array([-2, 2])}, "its shape is (-2, 2)"),
        (CSR | {"shape": np.array([2, 2**40])}, "its shape is (2, 1099511627776)"),
        (CSR | {"shape": np.array([2, 1])}, "indices holds 0 to 1, expected numbers from 0 to 0"),
        (CSR | {"shape": np.array([2])}, "shape is int64 of (1,)"),
        (CSR | {"shape": np.array([2.0, 2.0])}, "shape is float64 of (2,)"),
        (CSR | {"shape": np.array([2**31 - 1, 2]), "format": b"csc"}, "its shape says 2147483647 rows for 2 entries"),
        (COO | {"shape": np.array([2**31 - 1, 2])}, "its shape says 2147483647 rows for 2 entries"),
        (COO | {"row": np.array([0, 2])}, "row holds 0 to 2"),
        (COO | {"col": np.array([-1, 1])}, "indices holds -1 to 1"),
        (COO | {"col": np.array([1])}, "row, col and data have 2, 1 and 2 entries"),
        (COO | {"coords": np.array([[0, 5], [0, 1]])}, "row holds 0 to 5"),
        (COO | {"coords": np.array([0, 1])}, "row is 0-dimensional"),
        ({"format": b"dia", "shape": np.array([2, 2]), "data": np.ones((1, 2)), "offsets": np.array([9])}, "'dia'"),
        (CSR | {"format": b"bsr", "data": np.ones((2, 1, 1))}, "its format is 'bsr', expected csr, csc or coo"),
        (CSR | {"format": b"\xff"}, "expected csr, csc or coo"),
        (CSR | {"format": np.array([1, 2])}, "is not a SciPy sparse matrix"),
        ({"labels": np.array([1])}, "is not a SciPy sparse matrix"),
    ],
)
def test_arrays_that_are_no_matrix_are_refused(
    arrays: dict[str, Any], said: str, child: ProcessPoolExecutor, file: Path
) -> None:
    np.savez(file, **arrays)
    refusal = child.submit(read_and_check, file).result()
    assert isinstance(refusal, str), refusal
    assert said in refusal
    assert refusal.startswith(f"{file} is not a SciPy sparse matrix (") and refusal.endswith(": fetch it again.")
    assert "\n" not in refusal


def test_a_damaged_archive_is_refused(file: Path) -> None:
    np.savez(file, **CSR)
    content = file.read_bytes()
    file.write_bytes(content[: len(content) // 2])
    with pytest.raises(DataError, match="is not a SciPy sparse matrix"):
        read_npz(file)
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("format.npy", b"no array")
    with pytest.raises(DataError, match="is not a SciPy sparse matrix"):
        read_npz(file)


@pytest.mark.parametrize("kind", FORMATS)
@pytest.mark.parametrize("dtype", [np.float16, ">f4", np.float64, np.int64, bool])
def test_what_scipy_wrote_reads_back(kind: str, dtype: Any, file: Path, small_corpus: Any) -> None:
    Y = small_corpus.splits["train"].Y[:50]
    written = Y.asformat(kind)
    if dtype != np.float16:
        written = written.astype(np.dtype(dtype).newbyteorder("="))
    sparse.save_npz(file, written)
    with np.load(file) as archive:
        arrays = dict(archive)
    np.savez(file, **arrays | {"data": arrays["data"].astype(dtype)})
    found = read_npz(file)
    assert found.shape == Y.shape
    assert (found.astype(bool) != Y.astype(bool)).nnz == 0


def test_spare_room_behind_the_last_entry_is_passed_over(file: Path) -> None:
    np.savez(file, **CSR | {"data": np.ones(4), "indices": np.array([0, 1, -7, 10**9])})
    assert read_npz(file).toarray().tolist() == [[1, 0], [0, 1]]


def cells_by_definition(kind: str, arrays: dict[str, Any]) -> tuple[tuple[int, int], Cells] | None:
    """Shape and non-zero cells, one entry at a time; None where the arrays are no matrix."""
    names = ("shape", "data", *(("row", "col") if kind == "coo" else ("indices", "indptr")))
    if any(arrays[name].ndim != 1 or arrays[name].dtype.kind not in "biuf" for name in names):
        return None
    if any(arrays[name].dtype.kind not in "iu" for name in names if name != "data"):
        return None
    shape, data, *where = (arrays[name].tolist() for name in names)
    if len(shape) != 2 or min(shape) < 0:
        return None
    if kind == "coo":
        rows, columns = where
        if not len(rows) == len(columns) == len(data):
            return None
    else:
        columns, ends = where
        outer = shape[kind == "csc"]
        if len(ends) != outer + 1 or ends[0] != 0 or len(columns) != len(data) or ends != sorted(ends):
            return None
        if ends[-1] > len(data):
            return None
        data, columns = data[: ends[-1]], columns[: ends[-1]]
        rows = [sum(end <= place for end in ends) - 1 for place in range(len(data))]
        if kind == "csc":
            rows, columns = columns, rows
    if any(not 0 <= r < shape[0] for r in rows) or any(not 0 <= c < shape[1] for c in columns):
        return None
    if any(value != value for value in data):
        return None
    cells: Cells = defaultdict(float)
    for r, c, value in zip(rows, columns, data, strict=True):
        cells[r, c] += value
    return (shape[0], shape[1]), {place: value for place, value in cells.items() if value}


WHOLE = st.one_of(st.integers(-1, 4), st.sampled_from([-(2**40), 10**7, 2**31, 2**40, -(2**63)]))
ODD_ARRAYS = st.one_of(
    st.lists(WHOLE, max_size=6).map(lambda values: np.array(values, np.int64)),
    st.lists(st.integers(0, 3), max_size=6).map(lambda values: np.array(sorted(values), np.uint8)),
    st.lists(st.sampled_from([0.0, 1.0, np.nan]), max_size=4).map(np.array),
    st.lists(st.text(max_size=2), min_size=1, max_size=3).map(np.array),
    st.just(np.zeros((2, 2), np.int64)),
    st.just(np.int64(1)),
)


@st.composite
def archives(draw: st.DrawFn) -> tuple[str, dict[str, Any]]:
    """Arrays of a sound matrix, of which some are often replaced by others."""
    kind = draw(st.sampled_from(FORMATS))
    N, L = draw(st.integers(0, 3)), draw(st.integers(1, 3))
    outer, inner = (L, N) if kind == "csc" else (N, L)
    size = draw(st.integers(0, 6)) if N else 0
    data = draw(st.lists(st.integers(-1, 2), min_size=size, max_size=size))
    dtype = draw(st.sampled_from([np.int8, np.float32, np.float64]))
    arrays: dict[str, Any] = {"shape": np.array([N, L]), "data": np.array(data, dtype)}

    def places(limit: int) -> np.ndarray:
        return np.array(draw(st.lists(st.integers(0, max(limit - 1, 0)), min_size=size, max_size=size)), np.int32)

    if kind == "coo":
        arrays |= {"row": places(N), "col": places(L)}
    else:
        ends = sorted(draw(st.lists(st.integers(0, size), min_size=outer, max_size=outer)))
        arrays |= {"indices": places(inner), "indptr": np.array([0, *ends], np.int32)}
    for name in draw(st.lists(st.sampled_from(sorted(arrays)), max_size=2, unique=True)):
        arrays[name] = np.asarray(draw(ODD_ARRAYS))
    return kind, arrays


SPARE_ROOM = {"shape": np.array([1, 1]), "data": np.array([0.0, np.nan]), "indices": np.zeros(2, np.int32)}


@settings(deadline=None, max_examples=300)
@example(archive=("csr", {**SPARE_ROOM, "indptr": np.array([0, 0], np.int32)}))
@example(archive=("csr", {**SPARE_ROOM, "indptr": np.array([0, 2], np.int32)}))
@given(archive=archives())
def test_any_arrays_give_the_matrix_that_they_are_or_a_refusal(
    archive: tuple[str, dict[str, Any]], child: ProcessPoolExecutor, file: Path
) -> None:
    kind, arrays = archive
    np.savez(file, format=kind.encode(), **arrays)
    found = child.submit(read_and_check, file).result()
    expected = cells_by_definition(kind, arrays)
    if expected is None or max(expected[0]) > 2**31 - 1 or expected[0][0] > 10**7 + arrays["data"].size:
        assert isinstance(found, str), found
    else:
        assert found == expected
