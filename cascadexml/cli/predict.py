"""`cascadexml predict`."""

import bz2
import gzip
import io
import json
import lzma
import os
import stat
import sys
import zlib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import tee
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, TextIO, cast

import click

from cascadexml.bundle import beside
from cascadexml.cli.options import ARTIFACT, COUNT, VERBOSE, examples, with_model
from cascadexml.errors import DataError

if TYPE_CHECKING:
    from cascadexml.evaluation.calibration import Threshold
    from cascadexml.serving.predictor import Explained, Prediction


def _threshold(context: click.Context, option: click.Parameter, text: str | None) -> "Threshold":
    if text in ("tuned", "macro"):
        return cast("Threshold", text)
    return _share(text, "a number from 0 to 1, 'tuned' or 'macro'")


def _precision(context: click.Context, option: click.Parameter, text: str | None) -> float | None:
    return _share(text, "a number above 0 and at most 1", least=sys.float_info.min)


def _share(text: str | None, expected: str, least: float = 0.0) -> float | None:
    if text is None:
        return None
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not least <= value <= 1:
        raise click.BadParameter(f"{text!r}, expected {expected}.")
    return value


@click.command(
    epilog=examples(
        'echo "Hydrogen storage in metal hydrides" | cascadexml predict data/models/artifact',
        "cascadexml predict data/models/artifact --input records.jsonl --output labels.jsonl --top-k 10",
        "cascadexml predict data/models/artifact --threshold tuned < titles.txt",
        "cascadexml predict data/models/artifact --min-precision 0.8 < titles.txt",
        "cascadexml predict data/models/artifact --explain --top-k 3 < titles.txt",
        "cascadexml predict s3://cascadexml/models/tib-subjects@champion < titles.txt",
    ),
    short_help="Read texts, one a line, and write one line of JSON for each.",
)
@ARTIFACT
@click.option("--top-k", type=COUNT, default=5, metavar="K", help="At most K labels a text (default 5).")
@click.option(
    "--threshold",
    callback=_threshold,
    metavar="P",
    help='Leave out labels less probable than P, from 0 to 1; "tuned" takes the threshold chosen on dev for micro-F1, '
    '"macro" the one for macro-F1.',
)
@click.option(
    "--min-precision",
    callback=_precision,
    metavar="P",
    help="Leave out labels that on dev were right less often than in a share P, by label frequency.",
)
@click.option("--input", "source", default="-", metavar="FILE", help="Also .gz, .xz, .bz2; - is stdin (default).")
@click.option("--output", default="-", metavar="FILE", help="Appears when it is whole; - is stdout (default).")
@click.option(
    "--format",
    "form",
    type=click.Choice(["auto", "text", "jsonl"]),
    default="auto",
    help='auto takes each line that starts with "{" for JSON (default); text takes none, jsonl takes all.',
)
@click.option(
    "--keep-going",
    is_flag=True,
    help='For a line that cannot be read write {"line", "error"} and go on, instead of stopping.',
)
@click.option(
    "--explain",
    is_flag=True,
    help='Add an "explanation" to each label: shares of the sources, terms, nearest training records (of a blend).',
)
@with_model
@VERBOSE
def predict(
    path: str,
    top_k: int,
    threshold: "Threshold",
    min_precision: float | None,
    source: str,
    output: str,
    form: str,
    keep_going: bool,
    explain: bool,
    batch_size: int,
    device: str,
) -> None:
    """Read texts, one a line, and write one line of JSON for each:

    \b
      {"id": …, "predictions": [{"id": …, "name": …, "probability": …}, …]}

    An input line that starts with "{" is a JSON object with "text" and, if you like, an "id", which is passed through.
    Without an id the output has "line", the number of the input line. A blank line has no predictions.

    PATH is the artifact's folder, or s3://bucket/prefix/name@champion.
    """
    from cascadexml.serving.predictor import Predictor

    with _reading(source) as file:
        predictor = Predictor.load(path, device, batch_size)
        name = "stdin" if source == "-" else source
        records, ahead = tee(_records(file, name, form))
        # Someone may wait at the other end of a pipe or terminal: answer after each batch.
        chunk_size = None if _is_regular(file) else batch_size
        texts = (record.text for record in ahead)
        asked: dict[str, Any] = {"chunk_size": chunk_size, "min_precision": min_precision}
        stream: Iterator[list[dict[str, Any]]]
        if explain:
            explained = predictor.explain_stream(texts, top_k, threshold, **asked)
            stream = ([_explained(each) for each in found] for found in explained)
        else:
            predicted = predictor.stream(texts, top_k, threshold, **asked)
            stream = ([_prediction(each) for each in found] for found in predicted)
        with _writing(output) as out:
            for record, found in zip(records, stream, strict=True):
                if record.error is not None:
                    if not keep_going:
                        raise DataError(
                            f"{name}, line {record.line}: {record.error}: mend it, or see --format and --keep-going."
                        )
                    answer: dict[str, Any] = {"line": record.line, "error": record.error}
                else:
                    key = {"line": record.line} if record.id is None else {"id": record.id}
                    answer = {**key, "predictions": found}
                out.write(json.dumps(answer, ensure_ascii=False) + "\n")
                out.flush()


def _prediction(found: "Prediction") -> dict[str, Any]:
    return {"id": found.id, "name": found.name, "probability": round(found.probability, 6)}


def _explained(found: "Explained") -> dict[str, Any]:
    why, words = found.explanation, found.explanation.words
    terms = words and {
        "for": [{"term": each.term, "adds": _rounded(each.adds)} for each in words.speak_for],
        "against": [{"term": each.term, "adds": _rounded(each.adds)} for each in words.speak_against],
        "others": _rounded(words.others),
        "bias": _rounded(words.bias),
    }
    explanation = {
        "log_odds": _rounded(why.log_odds),
        "shares": {source: _rounded(share) for source, share in why.shares.items()},
        "calibration": _rounded(found.calibration),
        "terms": terms,
        "records": [{"id": near.id, "source": near.source, "cosine": _rounded(near.cosine)} for near in why.records],
    }
    return {**_prediction(found.prediction), "explanation": explanation}


def _rounded(value: float) -> float:
    # Adding 0 makes 0 of -0.
    return round(value, 6) + 0.0


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
    try:
        json.dumps(record.get("id"), allow_nan=False)
    except ValueError:
        raise ValueError('its "id" holds a number that JSON has not, such as NaN or 1e999') from None
    return _Record(number, record["text"], record.get("id"))


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
