"""Settings laid over params.yaml and written into it, checked as a whole; comments and order stay."""

import io
import re
import typing
import unicodedata
from collections.abc import Mapping, MutableMapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import unquote, urlsplit

import yaml
from ruamel.yaml import YAML
from ruamel.yaml.comments import CommentedSeq
from ruamel.yaml.error import YAMLError
from ruamel.yaml.scalarstring import DoubleQuotedScalarString, FoldedScalarString, LiteralScalarString

from cascadexml.bundle import beside
from cascadexml.config import Settings, settings_from
from cascadexml.config.encoder import files_of
from cascadexml.errors import ConfigError

ruamel = YAML()  # keeps comments, order and flow lists
ruamel.preserve_quotes = True
ruamel.width = 1 << 16
ruamel.representer.add_representer(
    type(None), lambda representer, _: representer.represent_scalar("tag:yaml.org,2002:null", "null")
)
NULLS = ("", "~", "null", "Null", "NULL")
TRUTHS = ("yes", "no", "on", "off")
INCOMING = "data/incoming"  # where later batches of own data may be put; with none in it there is nothing to compare
FILE_SUFFIXES = re.compile(r"(\.(jsonl|ndjson|json|csv|tsv|parquet|txt|npz|gz|xz|bz2|zip|tar|tgz))+$", re.IGNORECASE)
PLAIN = re.compile(r"[A-Za-z/][\w./+@-]*(://[\w./+@-]*)?", re.ASCII)


def read(path: Path) -> MutableMapping[str, Any]:
    """Read params.yaml, or a preset, which is laid over it.

    Raises:
        ConfigError: the file is missing, is not YAML or holds no mapping.
    """
    try:
        tree = ruamel.load(path.read_text(encoding="utf-8"))
    except (YAMLError, UnicodeDecodeError, OSError) as error:
        raise ConfigError(f"{path} cannot be read as YAML: {' '.join(str(error).split())}.") from None
    if not isinstance(tree, MutableMapping):
        raise ConfigError(f"{path} must be a mapping, found {tree!r}.")
    return tree


def assignment(text: str) -> dict[str, Any]:
    """Turn "train.epochs=1" into {"train": {"epochs": 1}}.

    For a setting that is a text the value is taken as it stands, whatever YAML would make of it, unless it stands in
    YAML's quotes. Nothing, `~` and `null` mean null where a text may be null. All other values are YAML.

    Raises:
        ConfigError: there is no key, or the value is not YAML.
    """
    dotted, equals, value = text.partition("=")
    if not (dotted and equals):
        raise ConfigError(f"{text!r} is no setting, expected key=value, such as train.epochs=1.")
    hint = _hint(dotted)
    arguments = typing.get_args(hint)
    try:
        if _is_text(hint):
            tree = None if type(None) in arguments and value.strip() in NULLS else _text(_unquoted(value))
        else:
            tree = _plain(ruamel.load(value), texts=bool(arguments) and _is_text(arguments[0]))
    except (YAMLError, ValueError):
        raise ConfigError(f"{text!r}: the value is not YAML, expected such as 1, true, null or [1, 2].") from None
    *outer, key = dotted.split(".")
    assigned: dict[str, Any] = {key: tree}
    for key in reversed(outer):
        assigned = {key: assigned}
    return assigned


def _hint(dotted: str) -> Any:
    """The type of a setting; None for a key that is not known, which the check of the whole refuses by name."""
    found: Any = Settings
    for key in dotted.split("."):
        found = typing.get_type_hints(found).get(key) if isinstance(found, type) else None
    return found


def _is_text(hint: Any) -> bool:
    kinds = set(typing.get_args(hint)) - {type(None)} or {hint}
    return typing.get_origin(hint) is not list and all(kind is str or isinstance(kind, str) for kind in kinds)


def _unquoted(value: str) -> str:
    quoted = value.strip()
    if len(quoted) < 2 or quoted[0] != quoted[-1] or quoted[0] not in "'\"":
        return value
    try:
        return str(ruamel.load(quoted))
    except YAMLError:
        return value


def _text(value: str) -> str:
    """A text that YAML reads back as it is: in quotes, unless YAML 1.1 and 1.2 both take it bare."""
    try:
        bare = ruamel.load(value) == value == yaml.safe_load(value) and PLAIN.fullmatch(value)
    except (YAMLError, yaml.YAMLError, ValueError):
        bare = None
    return value if bare else DoubleQuotedScalarString(value)


def _plain(tree: Any, texts: bool) -> Any:
    """A value without YAML's own styles; lists in brackets. With `texts`, its leaves that could be words are texts."""
    if isinstance(tree, Mapping):
        return {key: _plain(value, texts) for key, value in tree.items()}
    if isinstance(tree, list):
        flow = CommentedSeq(_plain(value, texts) for value in tree)
        flow.fa.set_flow_style()
        return flow
    if isinstance(tree, LiteralScalarString | FoldedScalarString):
        raise ValueError("a block")
    if isinstance(tree, str):
        # Who reads the file reads YAML 1.1, where yes and off are truth values.
        truth = yaml.safe_load(tree) if type(tree) is str and not texts and tree.lower() in TRUTHS else None
        return _text(str(tree)) if truth is None else truth
    if tree is None or isinstance(tree, bool | float):
        return tree
    if isinstance(tree, int):
        return int(tree)
    raise ValueError("a tag or a date")


def merge(base: MutableMapping[str, Any], overlay: Mapping[str, Any]) -> None:
    """Lay `overlay` over `base` in place: mappings are merged, all else is replaced."""
    for key, value in overlay.items():
        if isinstance(value, Mapping) and isinstance(base.get(key), MutableMapping):
            merge(base[key], value)
        else:
            base[key] = value


def model_name(source: str) -> str:
    """What to call a model of this source: the file's or folder's own name, as the registry takes it.

    my/records.jsonl.gz is "records", s3://bucket/Press 2024/ is "Press-2024".
    """
    address = urlsplit(source) if "://" in source else None
    path = PurePosixPath(unquote(address.path)) if address else Path(source).absolute()
    name = FILE_SUFFIXES.sub("", path.name or (address.netloc if address else ""))
    ascii_ = unicodedata.normalize("NFKD", name).encode("ascii", "ignore").decode()
    return re.sub(r"[^A-Za-z0-9._-]+", "-", ascii_).strip("._-")[:128] or "own-data"


def of_other_data(source: str) -> dict[str, Any]:
    """What holds for another source until its owner says more: nothing that was said of the data before."""
    told = dict.fromkeys(("data", "data_licence", "intended_use", "limits"))
    return {"package": {"name": model_name(source), **told}, "drift": {"batch": INCOMING}}


def apply(params: Path, settings: Sequence[str], preset: Path | None = None, source: str | None = None) -> None:
    """Write a preset, a source and key=value settings into params.yaml, in this order, after checking the whole.

    Another source than the one there takes with it what params.yaml says of the data (`of_other_data`), unless preset
    or settings say it anew. An encoder's name takes `encoder.files` with it.

    Raises:
        ConfigError: anything is wrong; params.yaml stays as it was.
    """
    tree = read(params)
    overlays: list[Mapping[str, Any]] = [read(preset)] if preset else []
    if source:
        # The shell leaves the ~ of SOURCE=~/folder to us; Path would eat one slash of an address.
        place = source if "://" in source else str(Path(source).expanduser())
        download = tree.get("download")
        if not isinstance(download, Mapping) or download.get("source") != place:
            overlays.insert(0, of_other_data(place))
        overlays.append({"download": {"source": place}})
    overlays.extend(map(assignment, settings))
    named: dict[str, Any] = {"encoder": {}}
    for overlay in overlays:
        merge(tree, overlay)
        merge(named, {"encoder": overlay.get("encoder") or {}})
    if "name" in named["encoder"] and "files" not in named["encoder"]:
        merge(tree, {"encoder": {"files": files_of(str(named["encoder"]["name"]), params.parent)}})
    text = io.StringIO()
    ruamel.dump(tree, text)
    settings_from(yaml.safe_load(text.getvalue()), str(params))
    if overlays:
        with beside(params) as new:
            new.write_text(text.getvalue(), encoding="utf-8")


def values_of(settings: Sequence[str]) -> dict[str, Any]:
    """key=value settings as one tree of plain values, later ones over earlier ones.

    Raises:
        ConfigError: one of them is no setting, or its value is not YAML.
    """
    tree: dict[str, Any] = {}
    for setting in settings:
        merge(tree, assignment(setting))
    text = io.StringIO()
    ruamel.dump(tree, text)
    plain: dict[str, Any] = yaml.safe_load(text.getvalue())
    return plain
