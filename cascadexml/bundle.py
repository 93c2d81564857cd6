"""A bundle: a folder of files with a manifest, written whole or not at all, verified before it is trusted.

Corpora, token stores, trees, checkpoints and artifacts are all bundles, so that "what is written reads back equal,
and is refused when truncated, tampered with or of another version" is decided in one place.

The manifest (`manifest.json`) holds the kind and version of the format, the SHA-256 and size of every file, a JSON
object of the writer's own, and a SHA-256 over all of that, so that no byte of it can change unseen. It carries no time
stamp: the same content gives the same bytes. Digests find damage and careless edits; they are no signature.
"""

import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cascadexml.checked_json import object_of, read_json, text_of
from cascadexml.errors import FormatError

MANIFEST = "manifest.json"


@dataclass(frozen=True)
class Bundle:
    """A verified bundle: where it lies and what its manifest says. Loaders take it in place of a path, and trust it.

    Attributes:
        path: its folder.
        kind: its format's name.
        version: its format's version.
        files: name of each file below `path` → {"sha256", "size"}.
        meta: the writer's own JSON object.
        verified: every file's SHA-256 was compared with the manifest, not only its size.
    """

    path: Path
    kind: str
    version: int
    files: Mapping[str, Mapping[str, Any]]
    meta: Mapping[str, Any]
    verified: bool = True

    @property
    def fingerprint(self) -> str:
        """SHA-256 over the files' names and digests: equal content, equal fingerprint."""
        lines = "".join(f"{name} {entry['sha256']}\n" for name, entry in sorted(self.files.items()))
        return hashlib.sha256(lines.encode()).hexdigest()

    def part(self, name: str, format_: "Format") -> "Bundle":
        """The bundle that lies in the folder `name` of this one, as verified as this one is.

        This manifest covers the inner bundle's files and the inner manifest too, so no byte is hashed again: it is
        enough that the inner manifest lists the same files with the same digests.

        Raises:
            FormatError: there is no such bundle, it is of another kind or version, or its manifest lists other files.
        """
        path, prefix = self.path / name, f"{name}/"
        covered = {file.removeprefix(prefix): entry for file, entry in self.files.items() if file.startswith(prefix)}
        manifest = _parse(path, format_)
        if manifest["files"] != {file: entry for file, entry in covered.items() if file != MANIFEST}:
            raise FormatError(
                f"{path} is not the {format_.kind} that the manifest of {self.path} lists: make it again."
            )
        return Bundle(path, format_.kind, format_.version, manifest["files"], manifest["meta"], self.verified)


@dataclass(frozen=True)
class Format:
    """A format on disk: what is written as it, and what is read as it.

    At 0.x a library reads one version of a format. Another one is refused by name: what was written by an older library
    is made again.

    Attributes:
        kind: its name, such as "cascadexml.tokens".
        version: a whole number from 1 that grows with every incompatible change.
    """

    kind: str
    version: int

    def check(self, kind: object, version: object, where: object) -> None:
        """Refuse what is not of this format; `where` is what the message calls it, a path or a URI.

        Raises:
            FormatError: it is of another kind, or of a newer or older version.
        """
        if kind != self.kind:
            raise FormatError(f"{where} is a {kind!r}, expected a {self.kind!r}: check the path.")
        if type(version) is not int or version < 1:
            raise FormatError(f"{where} has the version {version!r}, expected a whole number from 1: make it again.")
        if version != self.version:
            remedy = (
                "install a newer cascadexml."
                if version > self.version
                else "it was written by an older cascadexml; make it again with this one."
            )
            raise FormatError(
                f"{where} has format version {version} of {kind}, this library reads version {self.version}: {remedy}"
            )

    @contextmanager
    def write(self, path: Path, meta: Mapping[str, Any] | None = None) -> Iterator[Path]:
        """Give a folder to fill; when the block ends well, a manifest is added and the folder appears at `path`.

        Args:
            path: where the bundle will lie; an older bundle there is replaced.
            meta: a JSON object kept in the manifest; read when the block has ended.
        """
        with beside(path) as folder:
            folder.mkdir()
            yield folder
            files = {
                file.relative_to(folder).as_posix(): {"sha256": sha256_of(file), "size": file.stat().st_size}
                for file in sorted(folder.rglob("*"))
                if file.is_file()
            }
            content = {"kind": self.kind, "version": self.version, "files": files, "meta": dict(meta or {})}
            # Through JSON and back, so that the digest is over what a reader will see: numbers as keys become text.
            manifest = json.loads(json.dumps(content))
            text = json.dumps(manifest | {"sha256": _digest(manifest)}, indent=1, sort_keys=True, ensure_ascii=False)
            with (folder / MANIFEST).open("w", encoding="utf-8") as file:
                file.write(text + "\n")
                file.flush()
                os.fsync(file.fileno())

    def read(self, place: Path | Bundle, *, digests: bool = True) -> Bundle:
        """Verify the bundle at `place` and give it. A `Bundle` that is verified already is taken as it is.

        Args:
            place: the bundle's folder, or what an earlier `read` or `Bundle.part` gave.
            digests: compare every file's SHA-256, not only its size.

        Raises:
            FormatError: the manifest is missing or malformed, of another kind or version; a listed file is missing, of
                another size or content, or lies outside the folder; or a file is there that is not listed.
        """
        if isinstance(place, Bundle):
            self.check(place.kind, place.version, place.path)
            if place.verified or not digests:
                return place
            place = place.path
        manifest = _parse(place, self)
        where = place / MANIFEST
        if where.is_symlink() or manifest.get("sha256") != _digest(manifest):
            raise FormatError(f"{where} is a link or was changed after it was written: fetch {place} again.")
        _compare(place, manifest["files"], digests)
        return Bundle(place, self.kind, self.version, manifest["files"], manifest["meta"], digests)


def sha256_of(path: Path) -> str:
    """SHA-256 of a file's content, as 64 hex digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def replace_path(new: Path, final: Path) -> None:
    """Move the file or folder `new` to `final`, replacing what is there; both must lie on one file system."""
    if not final.is_dir():
        new.replace(final)
        return
    retired = Path(tempfile.mkdtemp(prefix=f".{final.name}.old-", dir=final.parent))
    final.replace(retired / final.name)
    new.replace(final)
    shutil.rmtree(retired)


@contextmanager
def beside(final: Path) -> Iterator[Path]:
    """Give a path beside `final` to write a file or folder to; it is moved to `final` when the block ends well.

    The path does not exist yet: the block creates it. On an error nothing is left behind.
    """
    final.parent.mkdir(parents=True, exist_ok=True)
    scratch = Path(tempfile.mkdtemp(prefix=f".{final.name}.new-", dir=final.parent))
    try:
        new = scratch / final.name
        yield new
        replace_path(new, final)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def _digest(manifest: Mapping[str, Any]) -> str:
    """SHA-256 of the manifest without its own "sha256", in one canonical form."""
    content = {key: value for key, value in manifest.items() if key != "sha256"}
    text = json.dumps(content, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()


def _parse(path: Path, format_: Format) -> dict[str, Any]:
    """The manifest of the bundle at `path`, well-formed and of the format, compared with nothing on disk."""
    where = path / MANIFEST
    try:
        manifest: dict[str, Any] = read_json(where, finite=False)
        kind, version, files, meta = (manifest[key] for key in ("kind", "version", "files", "meta"))
        well_formed = isinstance(meta, dict) and all(
            isinstance(entry["sha256"], str) and type(entry["size"]) is int for entry in files.values()
        )
        # Written again for its digest: what is nested just so deep that it can be read fails here, not later.
        json.dumps(manifest)
    except FileNotFoundError:
        raise FormatError(
            f"{path} holds no {MANIFEST}: expected a folder written as {format_.kind}; check the path."
        ) from None
    except NotADirectoryError:
        raise FormatError(f"{path} is a file: expected a folder written as {format_.kind}; check the path.") from None
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise FormatError(f"{where} cannot be read as a manifest ({error!r}): write {path} again.") from None
    format_.check(kind, version, path)
    if not well_formed:
        raise FormatError(f"{where} is not a well-formed manifest: write {path} again.")
    return manifest


def _compare(path: Path, files: Mapping[str, Mapping[str, Any]], digests: bool) -> None:
    """Refuse a folder whose files are not those of its manifest."""
    # A name leads nowhere outside the folder, because it must be one that a walk through the folder met, and the walk
    # follows no link. Pipes and devices count as strangers too.
    present = {f.relative_to(path).as_posix() for f in path.rglob("*") if f.is_symlink() or not f.is_dir()}
    strangers = sorted(present - set(files) - {MANIFEST})
    if strangers:
        raise FormatError(f"{path / strangers[0]} is not in the manifest of {path}: remove it or fetch {path} again.")
    for name, entry in files.items():
        file = path / name
        if name not in present or file.is_symlink() or not file.is_file():
            raise FormatError(f"{file} is listed in the manifest but is not a file there: fetch {path} again.")
        size = file.stat().st_size
        if size != entry["size"]:
            raise FormatError(f"{file} has {size} bytes, its manifest says {entry['size']}: fetch {path} again.")
        if digests and sha256_of(file) != entry["sha256"]:
            raise FormatError(f"{file} differs from the SHA-256 in its manifest: fetch {path} again.")


def kind_of(path: Path) -> str:
    """The kind that the manifest of the bundle at `path` gives; nothing else of it is read or verified.

    Raises:
        FormatError: there is no manifest, or it gives no kind.
    """
    try:
        return text_of(object_of(read_json(path / MANIFEST, finite=False)), "kind")
    except FileNotFoundError:
        raise FormatError(f"{path} holds no {MANIFEST}: check the path.") from None
    except (OSError, ValueError) as error:
        raise FormatError(f"{path / MANIFEST} gives no kind ({error}): write {path} again.") from None
