"""The command line: `cascadexml predict`, `evaluate`, `info` and `registry`, whose commands are in `registry_cli`.

Exit codes: 0 all went well, 1 a failure (one line on stderr says which), 2 wrong usage, 130 interrupted.
"""

import argparse
import bz2
import dataclasses
import gzip
import io
import json
import logging
import lzma
import os
import stat
import sys
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import tee
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, TextIO, TypeVar, cast

from cascadexml import __version__
from cascadexml.bundle import beside
from cascadexml.cli import registry as registry_cli
from cascadexml.errors import CascadeXMLError, DataError, FormatError

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

    from cascadexml.evaluation.records import RecordsReport

    Section = TypeVar("Section", bound=DataclassInstance)

PREDICT = """\
Read texts, one a line, and write one line of JSON for each:

  {"id": …, "predictions": [{"id": …, "name": …, "probability": …}, …]}

An input line that starts with "{" is a JSON object with "text" and, if you like, an "id", which is passed through.
Without an id the output has "line", the number of the input line. A blank line has no predictions.
"""
PREDICT_EXAMPLES = """\
examples:
  echo "Hydrogen storage in metal hydrides" | cascadexml predict data/models/artifact
  cascadexml predict data/models/artifact --input records.jsonl --output labels.jsonl --top-k 10
  cascadexml predict data/models/artifact --threshold tuned < titles.txt
  cascadexml predict s3://cascadexml/models/tib-subjects@champion < titles.txt
"""
EVALUATE = """\
Rank the labels of records whose labels are known and print how right the ranking is: precision, recall, F1, nDCG
and the propensity-scored PSP and PSnDCG at k, in percent, with bootstrap 95 % intervals. A record's label that the
model does not know counts against recall.
"""
EVALUATE_EXAMPLES = """\
examples:
  cascadexml evaluate data/models/artifact --data data/sample/test.jsonl.xz
  cascadexml evaluate data/models/artifact --data records.parquet --json > figures.json
"""
INFO = "Verify every byte of an artifact and say what it is: labels, encoder, data, parameters, figures, licence, size."
INFO_EXAMPLES = """\
examples:
  cascadexml info data/models/artifact
  cascadexml info data/models/artifact --json
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line and give its exit code."""
    if isinstance(sys.stdout, io.TextIOWrapper):
        # What a terminal's encoding lacks is shown as an escape. So is half a surrogate pair in an id: in JSON as such.
        sys.stdout.reconfigure(errors="backslashreplace")
    arguments = _parser().parse_args(argv)
    level = logging.INFO if arguments.verbose else logging.WARNING
    logging.basicConfig(level=level, format="%(levelname)s %(message)s", stream=sys.stderr)
    try:
        arguments.run(arguments)
        sys.stdout.flush()
    except BrokenPipeError:
        # The reader (`| head`) has all it wants. What is still buffered must not fail again at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except KeyboardInterrupt:
        return 130
    except (CascadeXMLError, OSError) as error:
        sys.stderr.write(f"cascadexml: error: {' '.join(str(error).split())}\n")
        return 1
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="cascadexml",
        description="Label texts with a trained CascadeXML artifact.",
        epilog="Each command has its own --help, with examples.",
    )
    parser.add_argument("--version", action="version", version=f"cascadexml {__version__}")
    commands = parser.add_subparsers(title="commands", required=True, metavar="COMMAND")

    def command(name: str, run: Callable[[argparse.Namespace], None], text: str, examples: str) -> Any:
        added = commands.add_parser(
            name,
            help=text.split(":")[0].split("\n")[0].rstrip(","),
            description=text,
            epilog=examples,
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        added.set_defaults(run=run)
        added.add_argument("path", metavar="PATH", help="the artifact's folder, or s3://bucket/prefix/name@champion")
        added.add_argument("-v", "--verbose", action="store_true", help="say on stderr what is being done")
        return added

    predict = command("predict", _predict, PREDICT, PREDICT_EXAMPLES)
    predict.add_argument("--top-k", type=_count, default=5, metavar="K", help="at most K labels a text (default 5)")
    predict.add_argument(
        "--threshold",
        type=_threshold,
        metavar="P",
        help='leave out labels less probable than P, from 0 to 1; "tuned" takes the threshold chosen on dev',
    )
    predict.add_argument("--input", default="-", metavar="FILE", help="also .gz, .xz, .bz2; - is stdin (default)")
    predict.add_argument(
        "--output", default="-", metavar="FILE", help="appears when it is whole; - is stdout (default)"
    )
    predict.add_argument(
        "--format",
        choices=("auto", "text", "jsonl"),
        default="auto",
        help='auto takes each line that starts with "{" for JSON (default); text takes none, jsonl takes all',
    )
    predict.add_argument(
        "--keep-going",
        action="store_true",
        help='for a line that cannot be read write {"line", "error"} and go on, instead of stopping',
    )
    evaluate = command("evaluate", _evaluate, EVALUATE, EVALUATE_EXAMPLES)
    evaluate.add_argument("--data", required=True, metavar="FILE", help="records with labels, in any source format")
    for with_model in (predict, evaluate):
        with_model.add_argument("--batch-size", type=_count, default=64, metavar="B", help="texts at once (default 64)")
        with_model.add_argument("--device", default="auto", help="cpu, cuda, cuda:1, mps or auto (default)")
    info = command("info", _info, INFO, INFO_EXAMPLES)
    for with_figures in (evaluate, info):
        with_figures.add_argument("--json", action="store_true", help="write JSON instead of a table")
    registry_cli.add_to(commands)
    return parser


def _predict(arguments: argparse.Namespace) -> None:
    from cascadexml.serving.predictor import Predictor

    with _reading(arguments.input) as file:
        predictor = Predictor.load(arguments.path, arguments.device, arguments.batch_size)
        threshold = predictor.threshold if arguments.threshold == "tuned" else arguments.threshold
        name = "stdin" if arguments.input == "-" else arguments.input
        records, ahead = tee(_records(file, name, arguments.format))
        texts = (record.text for record in ahead)
        # Someone may wait at the other end of a pipe or terminal: answer after each batch.
        chunk_size = None if _is_regular(file) else arguments.batch_size
        stream = predictor.stream(texts, arguments.top_k, threshold, chunk_size)
        with _writing(arguments.output) as out:
            for record, predictions in zip(records, stream, strict=True):
                if record.error is not None:
                    if not arguments.keep_going:
                        raise DataError(
                            f"{name}, line {record.line}: {record.error}: mend it, or see --format and --keep-going."
                        )
                    answer: dict[str, Any] = {"line": record.line, "error": record.error}
                else:
                    key = {"line": record.line} if record.id is None else {"id": record.id}
                    found = [{"id": p.id, "name": p.name, "probability": round(p.probability, 6)} for p in predictions]
                    answer = {**key, "predictions": found}
                out.write(json.dumps(answer, ensure_ascii=False) + "\n")
                out.flush()


@dataclass(frozen=True, slots=True)
class _Record:
    """One line of input; `error` says why it cannot be read, its text is empty then."""

    line: int
    text: str
    id: Any = None
    error: str | None = None


def _records(lines: Iterable[bytes], name: str, form: str) -> Iterator[_Record]:
    try:
        for number, line in enumerate(lines, start=1):
            try:
                yield _parse(number, line, form)
            except (ValueError, RecursionError) as error:
                yield _Record(number, "", error=str(error))
    except (EOFError, lzma.LZMAError, zlib.error) as error:
        raise DataError(f"{name} cannot be decompressed ({error}): fetch it again.") from None


def _parse(number: int, line: bytes, form: str) -> _Record:
    try:
        text = line.decode("utf-8-sig" if number == 1 else "utf-8").rstrip("\r\n")
    except UnicodeDecodeError as error:
        raise ValueError(f"byte {error.start + 1} is not UTF-8") from None
    if not text.strip() or form == "text" or (form == "auto" and not text.lstrip().startswith("{")):
        return _Record(number, text)
    try:
        record = json.loads(text)
    except json.JSONDecodeError as error:
        raise ValueError(f"not JSON ({error.msg} at character {error.pos + 1})") from None
    if not isinstance(record, dict) or not isinstance(record.get("text"), str):
        raise ValueError('not a JSON object whose "text" is a string')
    return _Record(number, record["text"], record.get("id"))


def _evaluate(arguments: argparse.Namespace) -> None:
    from cascadexml.config import ColumnSettings, DownloadSettings, EvaluateSettings
    from cascadexml.data.labelled import read_labelled
    from cascadexml.evaluation.records import evaluate_on_records, matrix_with_uses
    from cascadexml.progress import console_progress
    from cascadexml.registry import open_model

    artifact = open_model(arguments.path)
    params, vocabulary = artifact.meta["params"], artifact.vocabulary()
    source = dict(params.get("download", {}))
    source["columns"] = _section(ColumnSettings, source.get("columns", {}))
    kept = {name: source[name] for name in ("columns", "label_separator") if name in source}
    records = read_labelled(Path(arguments.data), DownloadSettings(**kept))
    try:
        Y_train = matrix_with_uses(artifact.label_counts(), artifact.meta["documents"]["train"], len(vocabulary))
    except ValueError as error:
        raise FormatError(
            f"{artifact.path}/label_counts.npy does not fit its model ({error}): pack it again."
        ) from None
    found = evaluate_on_records(
        artifact.ranker(arguments.device, arguments.batch_size),
        artifact.calibration(),
        vocabulary,
        Y_train,
        records,
        _section(EvaluateSettings, params.get("evaluate", {})),
        console_progress(),
    )
    _print(json.dumps(found.to_json(), indent=1, ensure_ascii=False) if arguments.json else _table(found))


def _section(kind: type["Section"], values: Mapping[str, Any]) -> "Section":
    """A section of the settings from what an artifact keeps; keys of other versions of the library are passed over."""
    known = {field.name for field in dataclasses.fields(kind)}
    return kind(**{key: value for key, value in values.items() if key in known})


def _table(found: "RecordsReport") -> str:
    """Figures in percent, one line a metric and one for its intervals."""
    figures, intervals = found.report.figures, found.report.intervals
    ks = [name.partition("@")[2] for name in figures if name.startswith("P@")]
    lines = [" " * 10 + "".join(f"{f'@{k}':>14}" for k in ks)]
    for family in dict.fromkeys(name.partition("@")[0] for name in figures if "@" in name):
        names = [f"{family}@{k}" for k in ks]
        label, indent = f"{family:10}", " " * 10
        if len(family) > len(indent):
            lines.append(family)
            label = indent
        lines.append(label + "".join(f"{100 * figures[name]:14.2f}" for name in names))
        if names[0] in intervals:
            spans = (f"{100 * intervals[name][0]:.2f}-{100 * intervals[name][1]:.2f}" for name in names)
            lines.append(indent + "".join(f"{span:>14}" for span in spans))
    at_threshold = ", ".join(f"{name} {100 * value:.2f}" for name, value in figures.items() if "@" not in name)
    lines.append(f"at the threshold {found.threshold:.4f} chosen on dev: {at_threshold}")
    lines.append(
        f"{found.evaluated:,} documents ({found.left_out:,} left out), {found.known:,} labels known, "
        f"{found.unknown:,} of the documents' labels unknown"
    )
    return "\n".join(lines)


def _info(arguments: argparse.Namespace) -> None:
    from cascadexml.evaluation.report import HEADLINES
    from cascadexml.registry import open_model

    artifact = open_model(arguments.path)
    meta = artifact.meta
    if arguments.json:
        _print(json.dumps({**meta, "fingerprint": artifact.fingerprint, "bytes": artifact.size}, indent=1))
        return
    package, encoder = meta["params"].get("package", {}), meta["encoder"]
    lines = {
        "name": meta["name"],
        "labels": f"{meta['labels']:,}",
        "encoder": f"{meta['params'].get('encoder', {}).get('name')} ({encoder['model_type']}, "
        f"{encoder['num_hidden_layers']} layers of {encoder['hidden_size']})",
        "parameters": f"{meta['parameters']:,}",
        "tokens a text": meta["max_length"],
        "threshold": f"{meta['threshold']:.4f}",
        "data": package.get("data"),
        "data licence": package.get("data_licence"),
        "documents": ", ".join(f"{split} {n:,}" for split, n in meta["documents"].items()),
        "test figures": ", ".join(f"{key} {value:.4f}" for key, value in meta["metrics"].items() if key in HEADLINES),
        "git revision": meta["git_revision"],
        "fingerprint": artifact.fingerprint,
        "size": f"{artifact.size / 2**20:.1f} MiB",
    }
    _print("\n".join(f"{key:14} {value}" for key, value in lines.items()))
    for section, values in meta["params"].items():
        _print(f"{section:14} {json.dumps(values, ensure_ascii=False)}")


def _print(text: str) -> None:
    sys.stdout.write(text + "\n")


@contextmanager
def _reading(name: str) -> Iterator[BinaryIO]:
    if name == "-":
        yield sys.stdin.buffer
        return
    opened = {".gz": gzip.open, ".xz": lzma.open, ".bz2": bz2.open}.get(Path(name).suffix, open)
    with opened(name, "rb") as file:  # type: ignore[operator]
        yield cast(BinaryIO, file)


@contextmanager
def _writing(name: str) -> Iterator[TextIO]:
    form: dict[str, Any] = {"encoding": "utf-8", "errors": "backslashreplace"}
    if name == "-":
        if isinstance(sys.stdout, io.TextIOWrapper):
            sys.stdout.reconfigure(**form)
        yield sys.stdout
        return
    path = Path(name).resolve()
    if path.exists() and not path.is_file():
        with path.open("w", **form) as device:
            yield device
        return
    with beside(path) as new, new.open("w", **form) as file:
        yield file


def _is_regular(file: BinaryIO) -> bool:
    try:
        return stat.S_ISREG(os.fstat(file.fileno()).st_mode)
    except OSError:
        return False


def _count(text: str) -> int:
    try:
        value = int(text)
    except ValueError:
        value = 0
    if value < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number from 1")
    return value


def _threshold(text: str) -> float | str:
    if text == "tuned":
        return text
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 <= value <= 1:
        raise argparse.ArgumentTypeError(f"{text!r} is neither a number from 0 to 1 nor 'tuned'")
    return value
