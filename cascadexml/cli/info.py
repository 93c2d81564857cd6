"""`cascadexml info`."""

import json

import click

from cascadexml.cli.options import ARTIFACT, AS_JSON, VERBOSE, examples, print_json


@click.command(
    epilog=examples("cascadexml info data/models/artifact", "cascadexml info data/models/artifact --json"),
    short_help="Verify every byte of an artifact and say what it is.",
)
@ARTIFACT
@AS_JSON
@VERBOSE
def info(path: str, as_json: bool) -> None:
    """Verify every byte of an artifact and say what it is: labels, encoder, data, parameters, figures, licence, size.

    PATH is the artifact's folder, or s3://bucket/prefix/name@champion.
    """
    from cascadexml.artifact.formats import exported_from
    from cascadexml.evaluation.report import in_a_line
    from cascadexml.registry import open_model

    artifact = open_model(path)
    meta = artifact.meta
    if as_json:
        print_json({**meta, "fingerprint": artifact.fingerprint, "bytes": artifact.size})
        return
    exported = exported_from(artifact.bundle)
    package, encoder, settings = artifact.section("package"), meta["encoder"], artifact.section("encoder")
    lines = {
        "name": meta["name"],
        "labels": f"{meta['labels']:,}",
        "ranker": meta["ranker"],
        "encoder": encoder
        and f"{settings.get('name')} ({encoder.get('model_type')}, {encoder.get('num_hidden_layers')} layers of "
        f"{encoder.get('hidden_size')})",
        "parameters": meta["parameters"] and f"{meta['parameters']:,}",
        "tokens a text": meta["max_length"],
        **({} if exported is None else {"exported": exported}),
        "threshold": f"{meta['threshold']:.4f}",
        "data": package.get("data") or "not stated",
        "data licence": package.get("data_licence") or "not stated",
        "documents": ", ".join(f"{split} {n:,}" for split, n in meta["documents"].items()),
        "test figures": in_a_line(meta["metrics"]),
        "git revision": meta["git_revision"],
        "fingerprint": artifact.fingerprint,
        "size": f"{artifact.size / 2**20:.1f} MiB",
    }
    for key, value in lines.items():
        click.echo(f"{key:14} {value}")
    for section, values in meta["params"].items():
        click.echo(f"{section:14} {json.dumps(values, ensure_ascii=False)}")
