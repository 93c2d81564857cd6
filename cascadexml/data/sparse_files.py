"""Arrays from files: index arrays are checked here before SciPy sees them, since its native code trusts them.

An index or a row's end outside its array is read and written there all the same by SciPy: a crash, or worse.
"""

import math
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy import sparse

from cascadexml.errors import DataError

MAX_SIZE = 2**31 - 1
"""The most rows or columns: label rows and label columns are int32 everywhere."""
MAX_EMPTY_ROWS = 10_000_000
"""CSC and COO files say N in a few bytes, and a CSR matrix needs memory for each row: more rows than entries are taken
up to here. So are more columns, of which all that is made of the matrix has one number each at least."""

Array = npt.NDArray[np.generic]


def checked_csr(data: Array, indices: Array, indptr: Array, shape: tuple[int, int]) -> sparse.csr_matrix:
    """A CSR matrix of arrays that come from outside; entries keep their order, and duplicates stay.

    Args:
        data: (Y,) values: numbers or booleans of at most 8 bytes, finite.
        indices: (Y,) whole numbers: the columns, each in [0, shape[1]).
        indptr: (shape[0] + 1,) whole numbers from 0 to Y that never fall.
        shape: rows and columns, each at most 2^31 - 1.

    Raises:
        ValueError: the arrays are no such matrix; what is wrong is said in a clause.
    """
    N, V = _checked_shape(shape)
    if data.dtype.kind not in "biuf" or data.dtype.itemsize > 8 or data.ndim != 1:
        raise ValueError(f"data is {data.ndim}-dimensional {data.dtype}, expected one dimension of numbers")
    if not np.isfinite(data).all():
        raise ValueError("data holds a value that is not finite")
    columns, ends = _checked_indices("indices", indices, V - 1), _checked_indices("indptr", indptr, data.size)
    if columns.size != data.size:
        raise ValueError(f"indices has {columns.size} entries, data has {data.size}")
    if ends.size != N + 1:
        raise ValueError(f"indptr has {ends.size} entries, expected {N + 1}")
    if ends[0] != 0 or ends[-1] != data.size or (np.diff(ends) < 0).any():
        raise ValueError(f"indptr does not rise from 0 to {data.size}, the number of entries")
    # SciPy knows neither other byte orders nor half precision.
    kind = np.dtype(np.float32) if data.dtype == np.float16 else data.dtype.newbyteorder("=")
    return sparse.csr_matrix((np.ascontiguousarray(data, dtype=kind), columns, ends), shape=(N, V))


def read_npz(path: Path) -> sparse.csr_matrix:
    """What `scipy.sparse.save_npz` wrote as CSR, CSC or COO, with duplicates summed and without stored zeros.

    Raises:
        DataError: the file is damaged, of another format, or its arrays are no matrix.
    """
    try:
        with np.load(path, allow_pickle=False) as archive:
            arrays = {name: archive[name] for name in archive.files}
        Y = _from_arrays(arrays)
    except Exception as error:
        # A damaged archive raises nearly anything here: zip, zlib and NumPy each have their own errors.
        reason = " ".join(str(error).split())
        raise DataError(f"{path} is not a SciPy sparse matrix ({reason}): fetch it again.") from None
    Y.sum_duplicates()
    Y.eliminate_zeros()
    return Y


def read_npy(file: Path) -> npt.NDArray[Any]:
    """What `numpy.save` wrote, of no more numbers than the file holds; nothing is unpickled.

    Raises:
        OSError: the file cannot be read.
        ValueError: it holds no such array.
    """
    with file.open("rb") as opened:
        version = np.lib.format.read_magic(opened)
        if version not in ((1, 0), (2, 0)):
            raise ValueError(f"{file.name} is of the version {version}, expected (1, 0)")
        header = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
        shape, _, dtype = header(opened)
        # NumPy would take memory for all that the header claims before it reads.
        held = file.stat().st_size - opened.tell()
        if dtype.hasobject or any(size < 0 for size in shape) or math.prod(shape) * dtype.itemsize != held:
            raise ValueError(f"{file.name} claims {dtype} of {shape} and holds {held} bytes")
        opened.seek(0)
        found: npt.NDArray[Any] = np.lib.format.read_array(opened, allow_pickle=False)
    return found


def _from_arrays(arrays: dict[str, Array]) -> sparse.csr_matrix:
    """A CSR matrix of the arrays of an .npz; raises ValueError or KeyError where they are none."""
    name = arrays["format"].item()
    kind = name.decode("ascii", errors="replace") if isinstance(name, bytes) else name
    sizes = arrays["shape"]
    if sizes.shape != (2,) or sizes.dtype.kind not in "iu":
        raise ValueError(f"shape is {sizes.dtype} of {sizes.shape}, expected two whole numbers")
    N, V = _checked_shape((int(sizes[0]), int(sizes[1])))
    data = arrays["data"]
    if max(0, V - data.size) > MAX_EMPTY_ROWS:
        raise ValueError(f"its shape says {V} columns for {data.size} entries")
    if kind not in ("csr", "csc", "coo"):
        raise ValueError(f"its format is {kind!r}, expected csr, csc or coo, as save_npz(path, Y.tocsr()) writes")
    if kind == "csr":
        return checked_csr(*_used(data, arrays["indices"], arrays["indptr"]), (N, V))
    if max(0, N - data.size) > MAX_EMPTY_ROWS:
        raise ValueError(f"its shape says {N} rows for {data.size} entries")
    if kind == "csc":
        turned = checked_csr(*_used(data, arrays["indices"], arrays["indptr"]), (V, N))
        return sparse.csr_matrix(turned.T)
    rows, columns = arrays["coords"] if "coords" in arrays else (arrays["row"], arrays["col"])
    rows = _checked_indices("row", rows, N - 1)
    order = np.argsort(rows, kind="stable")
    if not rows.size == columns.size == data.size:
        raise ValueError(f"row, col and data have {rows.size}, {columns.size} and {data.size} entries")
    indptr = np.concatenate([[0], np.cumsum(np.bincount(rows, minlength=N))])
    return checked_csr(data[order], columns[order], indptr, (N, V))


def _used(data: Array, indices: Array, indptr: Array) -> tuple[Array, Array, Array]:
    """Without the spare room that SciPy may leave behind the last entry."""
    ends = _checked_indices("indptr", indptr, data.size)
    if indices.shape != data.shape:
        raise ValueError(f"indices has shape {indices.shape}, data has {data.shape}")
    used = int(ends[-1]) if ends.size else 0
    return data[:used], indices[:used], ends


def _checked_shape(shape: tuple[int, int]) -> tuple[int, int]:
    if not all(0 <= size <= MAX_SIZE for size in shape):
        raise ValueError(f"its shape is {shape}, expected two numbers from 0 to {MAX_SIZE}")
    return shape


def _checked_indices(name: str, found: Array, last: int) -> npt.NDArray[np.signedinteger]:
    if found.ndim != 1 or found.dtype.kind not in "iu":
        raise ValueError(f"{name} is {found.ndim}-dimensional {found.dtype}, expected one dimension of whole numbers")
    # Compared before the cast, which would wrap what does not fit.
    if found.size and (int(found.min()) < 0 or int(found.max()) > last):
        raise ValueError(f"{name} holds {found.min()} to {found.max()}, expected numbers from 0 to {last}")
    # What SciPy would take itself: wider numbers would be a copy, and another one back.
    return np.ascontiguousarray(found, dtype=np.int32 if last <= MAX_SIZE else np.int64)
