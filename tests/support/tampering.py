"""Artifacts forged by somebody who seals them anew: a value is wrong, and all sizes and digests agree."""

import hashlib
import io
import json
import os
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from safetensors.numpy import load, save

MANIFEST = "manifest.json"
REMOVED, NESTED = "<removed>", "<nested>"
NEST = "[" * 100_000 + "]" * 100_000
HOSTILE: tuple[Any, ...] = (
    None,
    True,
    "",
    "x",
    -1,
    0,
    10**9,
    10**400,
    1.5,
    float("nan"),
    float("inf"),
    [],
    {},
    [[]],
    NESTED,
    REMOVED,
)
"""What each value of a JSON file is replaced with; of the strings two stand for what no value of Python can."""


@dataclass(frozen=True)
class Forgery:
    """One change to an artifact.

    Attributes:
        file: below the artifact's folder.
        what: says the change.
        content: of the file before → after; None removes it.
    """

    file: str
    what: str
    content: Callable[[bytes], bytes | None]

    def __str__(self) -> str:
        return f"{self.file}: {self.what}"


def digest_of(manifest: Mapping[str, Any]) -> str:
    """What a manifest's own "sha256" is: over all the rest in one canonical form."""
    content = {key: value for key, value in manifest.items() if key != "sha256"}
    return hashlib.sha256(json.dumps(content, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def reseal(folder: Path, *, below: Path | None = None) -> None:
    """Make every manifest in a folder agree with the files beside it, the innermost first.

    Args:
        folder: the artifact's.
        below: only the manifests of the folders that hold this file.
    """
    found = folder.rglob(MANIFEST) if below is None else (parent / MANIFEST for parent in below.parents)
    chosen = [file for file in found if file.is_file() and (file.parent == folder or folder in file.parents)]
    for file in sorted(chosen, key=lambda each: -len(each.parts)):
        try:
            manifest = json.loads(file.read_text(encoding="utf-8"))
            entries = {} if below is None else manifest["files"]
            present = (each for each in file.parent.rglob("*") if each.is_file() and each != file)
            names = {each.relative_to(file.parent).as_posix(): each for each in present}
            changed = {name for name, each in names.items() if below is None or each == below or each.name == MANIFEST}
            new = {name: _entry(names[name]) for name in sorted(changed)}
            manifest["files"] = {name: entry for name, entry in entries.items() if name in names} | new
            manifest["sha256"] = digest_of(manifest)
        except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
            # What the forger broke cannot be sealed, and need not be.
            continue
        file.write_text(json.dumps(manifest, indent=1, sort_keys=True, ensure_ascii=False) + "\n", encoding="utf-8")


def _entry(file: Path) -> dict[str, Any]:
    data = file.read_bytes()
    return {"sha256": hashlib.sha256(data).hexdigest(), "size": len(data)}


@contextmanager
def forged(folder: Path, forgery: Forgery) -> Iterator[Path]:
    """The artifact in `folder` with the change in it, sealed anew; afterwards it is as it was."""
    file = folder / forgery.file
    touched = [file, *(parent / MANIFEST for parent in file.parents if parent == folder or folder in parent.parents)]
    before = {each: each.read_bytes() for each in touched if each.is_file()}
    after = forgery.content(before.get(file, b""))
    try:
        if after is None:
            file.unlink()
        else:
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(after)
        reseal(folder, below=file)
        yield folder
    finally:
        if file not in before:
            file.unlink(missing_ok=True)
        for each, data in before.items():
            each.write_bytes(data)


def json_forgeries(folder: Path, every: int = 3) -> Iterator[Forgery]:
    """Each JSON file with each value replaced by each of `HOSTILE`, and with a key more.

    Args:
        folder: the artifact's.
        every: of a list, and of an object of many keys, only so many first ones and the last are changed.
    """
    for file in sorted(folder.rglob("*.json")):
        name, content = file.relative_to(folder).as_posix(), json.loads(file.read_text(encoding="utf-8"))
        for path in _paths(content, every):
            if file.name == MANIFEST and path[:1] in (("files",), ("sha256",)):
                continue
            for value in HOSTILE:
                yield Forgery(name, f"{'.'.join(map(str, path))} = {str(value)[:12]}", _replacer(path, value))
            yield Forgery(
                name, f"{'.'.join(map(str, path))} has a key more", _replacer((*path, "attn_implementation"), "x")
            )


def _paths(content: Any, every: int, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    yield path
    keys = (
        list(content) if isinstance(content, dict) else list(range(len(content))) if isinstance(content, list) else []
    )
    if isinstance(content, list) or len(keys) > 64:
        keys = [*keys[:every], *keys[every:][-1:]]
    for key in keys:
        yield from _paths(content[key], every, (*path, key))


def _replacer(path: tuple[Any, ...], value: Any) -> Callable[[bytes], bytes]:
    def replaced(data: bytes) -> bytes:
        whole = json.loads(data)
        holder = {"": whole}
        at: Any = holder
        for key in ("", *path)[:-1]:
            at = at[key]
        last = ("", *path)[-1]
        if value == REMOVED and type(value) is str:
            if path:
                del at[last]
            else:
                return b""
        elif isinstance(at, (dict, list)) and (isinstance(at, dict) or type(last) is int):
            at[last] = value
        text = json.dumps(holder[""])
        return text.replace(json.dumps(NESTED), NEST).encode()

    return replaced


def array_forgeries(folder: Path) -> Iterator[Forgery]:
    """Each array of each file of arrays with values out of range, of another type or another shape."""
    for file in sorted(folder.rglob("*.safetensors")):
        name = file.relative_to(folder).as_posix()
        try:
            tensors = load(file.read_bytes())
        except KeyError:
            # Rows in bfloat16, which NumPy does not know.
            continue
        for tensor in sorted(tensors):
            for what, change in _ARRAYS.items():
                yield Forgery(name, f"{tensor} {what}", _safetensors(tensor, change))
            yield Forgery(name, f"{tensor} is missing", _safetensors(tensor, None))
    for file in sorted(folder.rglob("*.npy")):
        for what, change in _ARRAYS.items():
            yield Forgery(file.relative_to(folder).as_posix(), what, _npy(change))
    for file in sorted(folder.rglob("*.parquet")):
        table = pq.read_table(file)
        for column in table.column_names:
            for what in ("missing", "null", "nan", "text", "whole"):
                yield Forgery(file.relative_to(folder).as_posix(), f"{column} {what}", _parquet(column, what))
        yield Forgery(file.relative_to(folder).as_posix(), "no row", _parquet("", "empty"))


def _set(value: Any) -> Callable[[Any], Any]:
    def change(array: Any) -> Any:
        new = array.copy()
        if new.size:
            kind = new.dtype.kind
            limits = np.iinfo(new.dtype) if kind in "iu" else None
            new.reshape(-1)[-1] = value if limits is None else max(min(int(value), int(limits.max)), int(limits.min))
        return new

    return change


_ARRAYS: dict[str, Callable[[Any], Any]] = {
    "-1 last": _set(-1),
    "10^18 last": _set(10**18),
    "nan last": lambda array: _set(np.nan)(array) if array.dtype.kind == "f" else array[:0],
    "inf last": lambda array: _set(np.inf)(array) if array.dtype.kind == "f" else array[::-1].copy(),
    "as int8": lambda array: np.nan_to_num(array.astype(np.float64)).clip(-128, 127).astype(np.int8),
    "as float64": lambda array: array.astype(np.float64),
    "as bool": lambda array: array.astype(bool),
    "one less": lambda array: array[:-1] if array.ndim else array.reshape(1),
    "one more": lambda array: np.concatenate([array, array[-1:]]) if array.ndim else array.reshape(1, 1),
    "empty": lambda array: array.reshape(-1)[:0],
    "one dimension more": lambda array: array[None],
}


def _safetensors(name: str, change: Callable[[Any], Any] | None) -> Callable[[bytes], bytes]:
    def changed(data: bytes) -> bytes:
        tensors = load(data)
        if change is None:
            del tensors[name]
        else:
            tensors[name] = np.ascontiguousarray(change(tensors[name]))
        return save(tensors)

    return changed


def _npy(change: Callable[[Any], Any]) -> Callable[[bytes], bytes]:
    def changed(data: bytes) -> bytes:
        sink = io.BytesIO()
        np.save(sink, change(np.load(io.BytesIO(data))), allow_pickle=False)
        return sink.getvalue()

    return changed


def _parquet(column: str, what: str) -> Callable[[bytes], bytes]:
    def changed(data: bytes) -> bytes:
        table = pq.read_table(io.BytesIO(data))
        n = table.num_rows
        new = {
            "null": lambda: pa.nulls(n, pa.float64()),
            "nan": lambda: pa.array([float("nan")] * n),
            "text": lambda: pa.array(["x"] * n),
            "whole": lambda: pa.array([2**62] * n),
        }
        if what == "empty":
            table = table.slice(0, 0)
        elif what == "missing":
            table = table.drop_columns([column])
        else:
            table = table.set_column(table.column_names.index(column), column, new[what]())
        sink = io.BytesIO()
        pq.write_table(table, sink)
        return sink.getvalue()

    return changed


def file_forgeries(folder: Path) -> Iterator[Forgery]:
    """Each file missing, empty, cut in half, or filled with what is no such file; and one that is too many."""
    for file in sorted(each for each in folder.rglob("*") if each.is_file()):
        name = file.relative_to(folder).as_posix()
        yield Forgery(name, "missing", lambda data: None)
        yield Forgery(name, "empty", lambda data: b"")
        yield Forgery(name, "half", lambda data: data[: len(data) // 2])
        yield Forgery(name, "noise", lambda data: bytes(range(256)) * 4)
    for name in ("more.json", "rankers/blend/more.txt", "rankers/more/more.json", "reference/more.npy"):
        yield Forgery(name, "too many", lambda data: b"{}")


def replace_by(folder: Path, name: str, kind: str) -> None:
    """Put a link to the file itself elsewhere, or a pipe, where a file of the artifact lies."""
    file = folder / name
    elsewhere = folder.parent / "elsewhere"
    if kind == "link":
        shutil.move(file, elsewhere)
        file.symlink_to(elsewhere)
    else:
        file.unlink()
        os.mkfifo(file)
