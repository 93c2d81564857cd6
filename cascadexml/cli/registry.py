"""`cascadexml registry …`: the registry's commands, as tables or as JSON."""

import functools
import io
import os
import re
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict
from datetime import datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from cascadexml.cli.options import AS_JSON, VERBOSE, examples, print_json
from cascadexml.errors import NotFoundError, RegistryError

if TYPE_CHECKING:
    from cascadexml.progress import Progress
    from cascadexml.registry import Registry, Version
    from cascadexml.registry.checking import Finding

FOLDER = click.Path(path_type=Path)
NAME = click.argument("name", metavar="NAME")
ALIAS = click.option("--alias", default="champion", help="Which alias (default champion).")
BY = click.option("--by", metavar="WHO", help="Who (default user@host).")
REASON = click.option("--reason", required=True, metavar="TEXT", help="Why; kept in the alias's history.")


class _Span(click.ParamType[timedelta]):
    name = "span"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> timedelta:
        found = re.fullmatch(r"(\d{1,6})([mhd])", value)
        if found is None:
            self.fail(f"{value!r} is no span of time, expected such as 90m, 12h or 1d.", param, ctx)
        return timedelta(minutes=int(found[1]) * {"m": 1, "h": 60, "d": 1440}[found[2]])


@click.group(
    short_help="Publish, promote, roll back and pull models.",
    epilog=examples(
        "export CASCADEXML_REGISTRY=s3://cascadexml/models",
        "cascadexml registry publish data/models/artifact",
        "cascadexml registry list tib-subjects",
        'cascadexml registry promote tib-subjects v-0123456789ab --reason "nDCG@5 +0.8, judged on 2026-11"',
        'cascadexml registry rollback tib-subjects --reason "rare headings vanish"',
    )
    + "\nEach command has its own --help, with examples.",
)
def registry() -> None:
    """Publish models, see which one is the champion, promote another, go back.

    The registry is --registry, else the variable CASCADEXML_REGISTRY, else registry.uri in the file that --params
    names. Endpoint and credentials come from the environment: AWS_ENDPOINT_URL, AWS_PROFILE or AWS_ACCESS_KEY_ID and
    the like.
    """


def _command(name: str, *lines: str) -> Callable[[Callable[..., None]], click.Command]:
    """A command that is given the registry that its options name; `lines` are its examples, without its own name."""

    def decorated(run: Callable[..., None]) -> click.Command:
        @click.option("--registry", "uri", metavar="URI", help="s3://bucket/prefix (default: $CASCADEXML_REGISTRY).")
        @click.option(
            "--params", metavar="FILE", type=FOLDER, help="Take the registry's settings from this params.yaml."
        )
        @AS_JSON
        @VERBOSE
        @functools.wraps(run)
        def command(uri: str | None, params: Path | None, **given: Any) -> None:
            run(_registry(uri, params), **given)

        epilog = examples(*(f"cascadexml registry {name} {line}".rstrip() for line in lines))
        return registry.command(name, epilog=epilog)(command)

    return decorated


def _registry(uri: str | None, params: Path | None) -> "Registry":
    from cascadexml.config import RegistrySettings, load_section
    from cascadexml.registry import Registry

    settings = load_section(params, "registry", RegistrySettings) if params else RegistrySettings()
    uri = uri or os.environ.get("CASCADEXML_REGISTRY") or (settings.uri if params else None)
    if not uri:
        raise RegistryError("no registry is named: give --registry s3://bucket/prefix, or set CASCADEXML_REGISTRY.")
    return Registry(uri, settings=settings)


@_command("publish", "data/models/artifact")
@click.argument("folder", metavar="FOLDER", type=FOLDER)
@click.option("--name", help="The model's name (default: the artifact's).")
@BY
def publish(site: "Registry", as_json: bool, folder: Path, name: str | None, by: str | None) -> None:
    """Publish an artifact. The same bytes again are the same version."""
    version = site.publish(folder, name, by=by, progress=_progress())
    _show_version(version, as_json, f"published {version.name} {version.version}")


@_command("list", "", "tib-subjects", "--json")
@click.argument("name", metavar="[NAME]", required=False)
def list_(site: "Registry", as_json: bool, name: str | None) -> None:
    """List the models, or the versions of one."""
    from cascadexml.evaluation.report import HEADLINE

    if name is None:
        names = {name: site.aliases(name) for name in site.names()}
        rows: list[Sequence[object]] = [(name, _pairs(aliases)) for name, aliases in names.items()]
        _write(names, as_json, ("model", "aliases"), rows)
        return
    versions = site.versions(name)
    if not versions:
        raise NotFoundError(f"{site.uri} has no versions of {name!r}: list without a name shows all models.")
    aliases = site.aliases(name)
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
            v["metrics"].get(HEADLINE),
            ", ".join(v["aliases"]),
        )
        for v in found
    ]
    _write(found, as_json, ("version", "published", "by", "size", HEADLINE, "aliases"), rows)


@_command("show", "tib-subjects", "tib-subjects@v-0123456789ab")
@click.argument("model", metavar="NAME[@REF]")
def show(site: "Registry", as_json: bool, model: str) -> None:
    """Show what a version says of itself. REF is an alias or a version (default champion)."""
    _show_version(site.resolve(*_model(model)), as_json, None)


@_command("aliases", "tib-subjects")
@NAME
def aliases(site: "Registry", as_json: bool, name: str) -> None:
    """Show what each alias of a model names."""
    found = site.aliases(name)
    _write(found, as_json, ("alias", "version"), sorted(found.items()))


@_command(
    "promote",
    'tib-subjects v-0123456789ab --reason "better on rare headings"',
    'tib-subjects challenger --reason "won" --expect v-ba9876543210',
)
@NAME
@click.argument("version", metavar="VERSION")
@ALIAS
@REASON
@BY
@click.option(
    "--expect",
    metavar="VERSION",
    help="Refuse unless the alias names this now; none: unless there is no such alias.",
)
def promote(
    site: "Registry",
    as_json: bool,
    name: str,
    version: str,
    alias: str,
    reason: str,
    by: str | None,
    expect: str | None,
) -> None:
    """Let an alias name a version. VERSION may also be an alias: the version that it names now."""
    from cascadexml.registry import ANY

    target = site.resolve(name, version).version
    expected = {None: ANY, "none": None}.get(expect, expect)
    before = site.aliases(name).get(alias)
    move = site.promote(name, target, alias, reason=reason, by=by, expect=expected)
    _show_move(name, asdict(move), before, as_json)


@_command(
    "rollback",
    'tib-subjects --reason "rare headings vanish"',
    'tib-subjects --to v-0123456789ab --reason "last good one"',
)
@NAME
@ALIAS
@REASON
@BY
@click.option("--to", metavar="VERSION", help="An earlier version that the alias named.")
def rollback(
    site: "Registry", as_json: bool, name: str, alias: str, reason: str, by: str | None, to: str | None
) -> None:
    """Let an alias name the version before again. Twice goes back two versions."""
    before = site.aliases(name).get(alias)
    move = site.roll_back(name, alias, reason=reason, by=by, to=to)
    _show_move(name, asdict(move), before, as_json)


@_command("history", "tib-subjects")
@NAME
@ALIAS
def history(site: "Registry", as_json: bool, name: str, alias: str) -> None:
    """Show all moves of an alias, the newest first."""
    moves = [asdict(move) for move in reversed(site.history(name, alias))]
    rows = [(_minute(m["when"]), m["action"], m["source"], m["target"], m["by"], m["reason"]) for m in moves]
    _write(moves, as_json, ("when", "move", "from", "to", "by", "reason"), rows)


@_command("diff", "tib-subjects champion challenger")
@NAME
@click.argument("one", metavar="ONE")
@click.argument("other", metavar="OTHER")
def diff(site: "Registry", as_json: bool, name: str, one: str, other: str) -> None:
    """Show what differs between two versions: settings, figures, labels, libraries, data, code.

    ONE and OTHER are aliases or versions.
    """
    found = site.diff(name, one, other)
    rows: list[Sequence[object]] = []
    for section in ("params", "metrics", "libraries"):
        rows += [(section, key, *pair) for key, pair in found[section].items()]
    rows += [("run", key, *found[key]) for key in ("data_fingerprint", "git_revision", "dvc_lock") if found[key]]
    labels = found["labels"]
    rows += [("labels", what, "", len(labels[what])) for what in ("added", "removed", "renamed") if labels[what]]
    _write(found, as_json, ("", "", found["one"], found["other"]), rows)


@_command("pull", "tib-subjects", "tib-subjects@challenger --to challenger")
@click.argument("model", metavar="NAME[@REF]")
@click.option("--to", metavar="FOLDER", type=FOLDER, help="Copy it there, out of the cache.")
def pull(site: "Registry", as_json: bool, model: str, to: Path | None) -> None:
    """Bring a model to this machine and print its folder. REF is an alias or a version (default champion)."""
    name, ref = _model(model)
    path = site.pull(name, ref, to=to, progress=_progress())
    print_json({"path": str(path)}) if as_json else click.echo(path)


@_command("gc", "--dry-run", "tib-subjects --keep 10 --older-than 30d")
@click.argument("name", metavar="[NAME]", required=False)
@click.option("--older-than", type=_Span(), default="1d", metavar="SPAN", help="Such as 90m, 12h, 1d (default).")
@click.option("--keep", type=click.IntRange(min=0), metavar="N", help="Keep the newest N versions (default: all).")
@click.option("--dry-run", is_flag=True, help="Remove nothing, only tell.")
def gc(
    site: "Registry", as_json: bool, name: str | None, older_than: timedelta, keep: int | None, dry_run: bool
) -> None:
    """Remove incomplete versions, abandoned uploads and, with --keep, old versions.

    What an alias names, or a roll-back would go to, stays.
    """
    removed = site.gc(name, older_than=older_than, keep=keep, dry_run=dry_run)
    rows = [(r.what, r.uri, _size(r.size), _minute(r.newest)) for r in removed]
    head = "would be removed" if dry_run else "removed"
    _write([asdict(r) for r in removed], as_json, (head, "", "size", "last written"), rows)


@_command("check", "", "--rounds 20 --writers 8", "--registry s3://bucket/prefix --json")
@click.option("--rounds", type=click.IntRange(1, 10_000), default=200, help="Races of each kind (default 200).")
@click.option("--writers", type=click.IntRange(2, 256), default=32, help="Who race at once (default 32).")
@click.option("--insist", is_flag=True, help="End well even if the store fails: you know what you risk.")
def check(site: "Registry", as_json: bool, rounds: int, writers: int, insist: bool) -> None:
    """Try whether the store keeps what the registry relies on; do so once before it holds models.

    Objects are written below the registry's prefix and removed again; this takes the right to do both.
    """
    from cascadexml.registry.checking import check_store

    found = check_store(site.uri, site.settings, rounds=rounds, writers=writers, progress=_progress())
    rows = [(f.promise, f.tried, f.broken, _verdict(f), f.example) for f in found]
    _write([asdict(f) for f in found], as_json, ("promise", "tried", "broken", "", "seen"), rows)
    failed = [f.promise for f in found if f.needed and f.broken]
    if failed and not insist:
        raise RegistryError(
            f"{site.uri} lies in a store that does not keep what the registry relies on ({'; '.join(failed)}): moves "
            "of aliases can be lost there. Use another store, or --insist."
        )


def _verdict(finding: "Finding") -> str:
    if not finding.broken:
        return "kept"
    return "BROKEN" if finding.needed else "not kept, not needed"


def _show_version(version: "Version", as_json: bool, headline: str | None) -> None:
    from cascadexml.evaluation.report import in_a_line

    plain = _plain(version)
    if as_json:
        print_json({**plain, "meta": version.meta, "files": version.files}, _json)
        return
    if headline:
        click.echo(headline)
        return
    rows: list[Sequence[object]] = [(key, value) for key, value in plain.items() if not isinstance(value, Mapping)]
    rows += [("figures", in_a_line(plain["metrics"])), ("libraries", _pairs(version.meta.get("libraries", {})))]
    _write(None, False, ("", ""), rows)


def _show_move(name: str, move: Mapping[str, Any], before: str | None, as_json: bool) -> None:
    if as_json:
        print_json({**move, "moved": before != move["target"]}, _json)
    elif before == move["target"]:
        click.echo(f"{name}@{move['alias']} names {move['target']} already")
    else:
        click.echo(f"{name}@{move['alias']}: {move['source'] or 'new'} → {move['target']}")


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


def _write(value: object, as_json: bool, head: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    if as_json:
        print_json(value, _json)
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
