"""download: source and accepted batches → data/raw: RawRecords of train, dev and test, label names, their origin."""

import hashlib
import json
import logging
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from cascadexml import bundle
from cascadexml.config import Settings
from cascadexml.data.accepted import add_batches, read_batches
from cascadexml.data.readers import read
from cascadexml.data.splitting import fill_splits, limit_splits
from cascadexml.progress import console_progress
from cascadexml.storage.addresses import public_name
from cascadexml.storage.fetch import fetch
from stages import ACCEPTED, DATA, RAW, run

# Outside the stage's outs, which DVC removes before it runs: so that a broken download is resumed.
DOWNLOADS = DATA / "downloads"

log = logging.getLogger(__name__)


def main(settings: Settings) -> None:
    """Fetch, read, split, limit, add the accepted batches; then write data/raw at once."""
    download = settings.download
    batches = read_batches(ACCEPTED)
    folder = DOWNLOADS / hashlib.sha256(download.source.encode()).hexdigest()[:16]
    path = fetch(download.source, folder, download.sha256, console_progress())
    data = read(path, download)
    splits = fill_splits(data.splits, download.split)
    if download.limit is not None:
        splits = limit_splits(splits, download.limit)
    known = pa.chunked_array([chunk for table in data.splits.values() for chunk in table["id"].chunks], pa.string())
    splits, added = add_batches(splits, batches, download.accepted, known)
    records = {name: table.num_rows for name, table in splits.items()}
    source = {
        "source": public_name(download.source),
        "files": {_name(file, path): bundle.sha256_of(file) for file in data.files},
        "records": records,
        "batches": added,
        "unreadable": {name: table.num_rows - table["error"].null_count for name, table in splits.items()},
        "label_names": len(data.label_names),
    }
    with bundle.beside(RAW) as new:
        new.mkdir()
        for name, table in splits.items():
            pq.write_table(table, new / f"{name}.parquet", compression="zstd")
        names = sorted(data.label_names.items())
        columns = {"id": [i for i, _ in names], "name": [name for _, name in names]}
        labels = pa.table(columns, schema=pa.schema([("id", pa.string()), ("name", pa.string())]))
        pq.write_table(labels, new / "labels.parquet", compression="zstd")
        (new / "source.json").write_text(json.dumps(source, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    log.info("records: %s", ", ".join(f"{name} {n}" for name, n in records.items()))


def _name(file: Path, path: Path) -> str:
    return file.relative_to(path).as_posix() if path.is_dir() else file.name


if __name__ == "__main__":
    run(main)
