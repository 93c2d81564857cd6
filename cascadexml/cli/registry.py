"""`cascadexml registry …`: the registry's commands, as tables or as JSON."""

import argparse
import io
import json
import os
import re
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict
from datetime import datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cascadexml.errors import NotFoundError, RegistryError

if TYPE_CHECKING:
    from cascadexml.progress import Progress
    from cascadexml.registry import Registry, Version

ABOUT = """\
Publish models, see which one is the champion, promote another, go back.

The registry is --registry, else the variable CASCADEXML_REGISTRY, else registry.uri in the file that --params names.
Endpoint and credentials come from the environment: AWS_ENDPOINT_URL, AWS_PROFILE or AWS_ACCESS_KEY_ID and the like.
"""
EXAMPLES = """\
examples:
  export CASCADEXML_REGISTRY=s3://cascadexml/models
  cascadexml registry publish data/models/artifact
  cascadexml registry list tib-subjects
  cascadexml registry promote tib-subjects v-0123456789ab --reason "nDCG@5 +0.8, judged on 2026-11"
  cascadexml registry rollback tib-subjects --reason "rare headings vanish"
"""

Run = Callable[[argparse.Namespace, "Registry"], None]


def add_to(commands: Any) -> None:
    """Add the command `registry` to the command line's own."""
    parser = commands.add_parser(
        "registry",
        help="publish, promote, roll back and pull models",
        description=ABOUT,
        epilog=EXAMPLES + "\nEach command has its own --help, with examples.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    inner = parser.add_subparsers(title="commands", required=True, metavar="COMMAND")

    def command(name: str, run: Run, text: str, *examples: str) -> argparse.ArgumentParser:
        added: argparse.ArgumentParser = inner.add_parser(
            name,
            help=text.split(":")[0].split(". ")[0].rstrip("."),
            description=text,
            epilog="examples:\n" + "".join(f"  cascadexml registry {name} {example}\n" for example in examples),
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        added.set_defaults(run=lambda arguments: run(arguments, _registry(arguments)))
        added.add_argument("--registry", metavar="URI", help="s3://bucket/prefix (default: $CASCADEXML_REGISTRY)")
        added.add_argument(
            "--params", metavar="FILE", type=Path, help="take the registry's settings from this params.yaml"
        )
        added.add_argument("--json", action="store_true", help="write JSON instead of a table")
        added.add_argument("-v", "--verbose", action="store_true", help="say on stderr what is being done")
        return added

    def model(parser: argparse.ArgumentParser) -> None:
        parser.add_argument("name", metavar="NAME", help="the model's name")

    def mover(parser: argparse.ArgumentParser) -> None:
        parser.add_argument("--alias", default="champion", help="which alias (default champion)")
        parser.add_argument("--reason", required=True, metavar="TEXT", help="why; kept in the alias's history")
        parser.add_argument("--by", metavar="WHO", help="who (default user@host)")

    publish = command(
        "publish", _publish, "Publish an artifact. The same bytes again are the same version.", "data/models/artifact"
    )
    publish.add_argument("folder", metavar="FOLDER", type=Path, help="the artifact's folder")
    publish.add_argument("--name", help="the model's name (default: the artifact's)")
    publish.add_argument("--by", metavar="WHO", help="who (default user@host)")
    listing = command("list", _list, "List the models, or the versions of one.", "", "tib-subjects", "--json")
    listing.add_argument("name", metavar="NAME", nargs="?", help="list this model's versions")
    show = command("show", _show, "Show what a version says of itself.", "tib-subjects", "tib-subjects@v-0123456789ab")
    show.add_argument("model", metavar="NAME[@REF]", help="an alias or a version (default @champion)")
    model(command("aliases", _aliases, "Show what each alias of a model names.", "tib-subjects"))
    promote = command(
        "promote",
        _promote,
        "Let an alias name a version.",
        'tib-subjects v-0123456789ab --reason "better on rare headings"',
        'tib-subjects challenger --reason "won" --expect v-ba9876543210',
    )
    model(promote)
    promote.add_argument("version", metavar="VERSION", help="a version, or an alias that names it now")
    mover(promote)
    promote.add_argument(
        "--expect",
        metavar="VERSION",
        help="refuse unless the alias names this now; none: unless there is no such alias",
    )
    rollback = command(
        "rollback",
        _rollback,
        "Let an alias name the version before again. Twice goes back two versions.",
        'tib-subjects --reason "rare headings vanish"',
        'tib-subjects --to v-0123456789ab --reason "last good one"',
    )
    model(rollback)
    mover(rollback)
    rollback.add_argument("--to", metavar="VERSION", help="an earlier version that the alias named")
    history = command("history", _history, "Show all moves of an alias, the newest first.", "tib-subjects")
    model(history)
    history.add_argument("--alias", default="champion", help="which alias (default champion)")
    diff = command(
        "diff",
        _diff,
        "Show what differs between two versions: settings, figures, labels, libraries, data, code.",
        "tib-subjects champion challenger",
    )
    model(diff)
    diff.add_argument("one", metavar="ONE", help="an alias or a version")
    diff.add_argument("other", metavar="OTHER", help="an alias or a version")
    pull = command(
        "pull",
        _pull,
        "Bring a model to this machine and print its folder.",
        "tib-subjects",
        "tib-subjects@challenger --to challenger",
    )
    pull.add_argument("model", metavar="NAME[@REF]", help="an alias or a version (default @champion)")
    pull.add_argument("--to", metavar="FOLDER", type=Path, help="copy it there, out of the cache")
    gc = command(
        "gc",
        _gc,
        "Remove incomplete versions, abandoned uploads and, with --keep, old versions. What an alias names, or a "
        "roll-back would go to, stays.",
        "--dry-run",
        "tib-subjects --keep 10 --older-than 30d",
    )
    gc.add_argument("name", metavar="NAME", nargs="?", help="only this model (default: all)")
    gc.add_argument(
        "--older-than", type=_span, default=timedelta(days=1), metavar="SPAN", help="such as 90m, 12h, 1d (default)"
    )
    gc.add_argument("--keep", type=_number, metavar="N", help="keep the newest N versions (default: all)")
    gc.add_argument("--dry-run", action="store_true", help="remove nothing, only tell")


def _registry(arguments: argparse.Namespace) -> "Registry":
    from cascadexml.config import RegistrySettings, load_settings
    from cascadexml.registry import Registry

    settings = load_settings(arguments.params).registry if arguments.params else RegistrySettings()
    uri = arguments.registry or os.environ.get("CASCADEXML_REGISTRY") or (arguments.params and settings.uri)
    if not uri:
        raise RegistryError("no registry is named: give --registry s3://bucket/prefix, or set CASCADEXML_REGISTRY.")
    return Registry(uri, settings=settings)


def _publish(arguments: argparse.Namespace, registry: "Registry") -> None:
    version = registry.publish(arguments.folder, arguments.name, by=arguments.by, progress=_progress())
    _show_version(arguments, version, f"published {version.name} {version.version}")


def _list(arguments: argparse.Namespace, registry: "Registry") -> None:
    if arguments.name is None:
        names = {name: registry.aliases(name) for name in registry.names()}
        rows: list[Sequence[object]] = [(name, _pairs(aliases)) for name, aliases in names.items()]
        _write(arguments, names, ("model", "aliases"), rows)
        return
    versions = registry.versions(arguments.name)
    if not versions:
        raise NotFoundError(
            f"{registry.uri} has no versions of {arguments.name!r}: list without a name shows all models."
        )
    aliases = registry.aliases(arguments.name)
    found = []
    for version in reversed(versions):
        named = sorted(alias for alias, target in aliases.items() if target == version.version)
        found.append({**_plain(version), "aliases": named})
    rows = [
        (
            v["version"],
            _minute(v["created"]),
            v["by"],
            _size(v["size"]),
            v["metrics"].get("nDCG@5"),
            ", ".join(v["aliases"]),
        )
        for v in found
    ]
    _write(arguments, found, ("version", "published", "by", "size", "nDCG@5", "aliases"), rows)


def _show(arguments: argparse.Namespace, registry: "Registry") -> None:
    name, ref = _model(arguments.model)
    version = registry.resolve(name, ref)
    _show_version(arguments, version, None)


def _show_version(arguments: argparse.Namespace, version: "Version", headline: str | None) -> None:
    plain = _plain(version)
    if arguments.json:
        _print_json({**plain, "meta": version.meta, "files": version.files})
        return
    if headline:
        sys.stdout.write(headline + "\n")
        return
    rows: list[Sequence[object]] = [(key, value) for key, value in plain.items() if not isinstance(value, Mapping)]
    figures = {k: v for k, v in plain["metrics"].items() if k in ("P@1", "P@5", "nDCG@5", "PSP@5", "micro_F1")}
    rows += [("figures", _pairs(figures)), ("libraries", _pairs(version.meta.get("libraries", {})))]
    _write(arguments, None, ("", ""), rows)


def _aliases(arguments: argparse.Namespace, registry: "Registry") -> None:
    aliases = registry.aliases(arguments.name)
    _write(arguments, aliases, ("alias", "version"), sorted(aliases.items()))


def _promote(arguments: argparse.Namespace, registry: "Registry") -> None:
    from cascadexml.registry import ANY

    version = registry.resolve(arguments.name, arguments.version).version
    expect = {None: ANY, "none": None}.get(arguments.expect, arguments.expect)
    before = registry.aliases(arguments.name).get(arguments.alias)
    move = registry.promote(
        arguments.name, version, arguments.alias, reason=arguments.reason, by=arguments.by, expect=expect
    )
    _show_move(arguments, asdict(move), before)


def _rollback(arguments: argparse.Namespace, registry: "Registry") -> None:
    before = registry.aliases(arguments.name).get(arguments.alias)
    move = registry.roll_back(
        arguments.name, arguments.alias, reason=arguments.reason, by=arguments.by, to=arguments.to
    )
    _show_move(arguments, asdict(move), before)


def _show_move(arguments: argparse.Namespace, move: Mapping[str, Any], before: str | None) -> None:
    if arguments.json:
        _print_json({**move, "moved": before != move["target"]})
    elif before == move["target"]:
        sys.stdout.write(f"{arguments.name}@{move['alias']} names {move['target']} already\n")
    else:
        sys.stdout.write(f"{arguments.name}@{move['alias']}: {move['source'] or 'new'} → {move['target']}\n")


def _history(arguments: argparse.Namespace, registry: "Registry") -> None:
    moves = [asdict(move) for move in reversed(registry.history(arguments.name, arguments.alias))]
    rows = [(_minute(m["when"]), m["action"], m["source"], m["target"], m["by"], m["reason"]) for m in moves]
    _write(arguments, moves, ("when", "move", "from", "to", "by", "reason"), rows)


def _diff(arguments: argparse.Namespace, registry: "Registry") -> None:
    found = registry.diff(arguments.name, arguments.one, arguments.other)
    rows: list[Sequence[object]] = []
    for section in ("params", "metrics", "libraries"):
        rows += [(section, key, *pair) for key, pair in found[section].items()]
    rows += [("run", key, *found[key]) for key in ("data_fingerprint", "git_revision", "dvc_lock") if found[key]]
    labels = found["labels"]
    rows += [("labels", what, "", len(labels[what])) for what in ("added", "removed", "renamed") if labels[what]]
    _write(arguments, found, ("", "", found["one"], found["other"]), rows)


def _pull(arguments: argparse.Namespace, registry: "Registry") -> None:
    name, ref = _model(arguments.model)
    path = registry.pull(name, ref, to=arguments.to, progress=_progress())
    _print_json({"path": str(path)}) if arguments.json else sys.stdout.write(f"{path}\n")


def _gc(arguments: argparse.Namespace, registry: "Registry") -> None:
    removed = registry.gc(
        arguments.name, older_than=arguments.older_than, keep=arguments.keep, dry_run=arguments.dry_run
    )
    rows = [(r.what, r.uri, _size(r.size), _minute(r.newest)) for r in removed]
    head = "would be removed" if arguments.dry_run else "removed"
    _write(arguments, [asdict(r) for r in removed], (head, "", "size", "last written"), rows)


def _plain(version: "Version") -> dict[str, Any]:
    meta = version.meta
    return {
        "name": version.name,
        "version": version.version,
        "uri": version.uri,
        "created": version.created,
        "by": version.by,
        "size": version.size,
        "fingerprint": version.fingerprint,
        "labels": meta.get("labels"),
        "data_fingerprint": meta.get("data_fingerprint"),
        "git_revision": meta.get("git_revision"),
        "metrics": dict(meta.get("metrics", {})),
    }


def _write(arguments: argparse.Namespace, value: object, head: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    if arguments.json:
        _print_json(value)
        return
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, show_header=any(head), header_style="bold", pad_edge=False)
    for title in head:
        table.add_column(Text(title), overflow="fold")
    for row in rows:
        table.add_row(*(Text(_text(value)) for value in row))
    if sys.stdout.isatty():
        Console().print(table)
        return
    # Lines that go into a file or another program are not cut at a terminal's width, nor filled up to it.
    console = Console(file=io.StringIO(), width=1000)
    with console.capture() as printed:
        console.print(table)
    sys.stdout.write("".join(f"{line.rstrip()}\n" for line in printed.get().splitlines()))


def _text(value: object) -> str:
    if value is None:
        return "-"
    return f"{value:.4f}" if isinstance(value, float) else str(value)


def _print_json(value: object) -> None:
    sys.stdout.write(json.dumps(value, indent=1, ensure_ascii=False, default=_json) + "\n")


def _json(value: object) -> object:
    return value.isoformat() if isinstance(value, datetime) else dict(value)  # type: ignore[call-overload]


def _pairs(pairs: Mapping[str, object]) -> str:
    return ", ".join(f"{key} {_text(value)}" for key, value in sorted(pairs.items()))


def _minute(when: str | datetime) -> str:
    return f"{datetime.fromisoformat(when) if isinstance(when, str) else when:%Y-%m-%d %H:%M}"


def _size(size: int) -> str:
    return f"{size / 2**20:.1f} MiB"


def _model(text: str) -> tuple[str, str]:
    name, _, ref = text.partition("@")
    return name, ref or "champion"


def _progress() -> "Progress":
    from cascadexml.progress import console_progress

    return console_progress()


def _span(text: str) -> timedelta:
    found = re.fullmatch(r"(\d{1,6})([mhd])", text)
    if found is None:
        raise argparse.ArgumentTypeError(f"{text!r} is no span of time, expected such as 90m, 12h or 1d")
    return timedelta(minutes=int(found[1]) * {"m": 1, "h": 60, "d": 1440}[found[2]])


def _number(text: str) -> int:
    if not re.fullmatch(r"\d{1,9}", text):
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number from 0")
    return int(text)
