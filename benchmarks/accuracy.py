"""How accurate a run's model is beside other people's rankers, trained and measured on the same records.

    python -m benchmarks.accuracy [--run FOLDER] [--with PEER ...] [--only PEER ...] [--ranking NAME=FILE ...]

FOLDER is a checkout in which `make run` has run. Each peer is trained on the run's train texts and ranks dev and test;
what it gave is kept under --out and not made again. One Markdown table, then one JSON line a ranker. Packages of
others run in an environment of their own, benchmarks/.peers/, which is made when it is needed.
"""

import argparse
import json
import logging
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

from benchmarks.peers.base import Answer, Clock, Peer, Task
from benchmarks.peers.catalogue import peers
from benchmarks.peers.table import Entry, compare, json_lines, markdown
from cascadexml.bundle import MANIFEST, sha256_of
from cascadexml.config import Settings, load_settings
from cascadexml.data.corpus import Corpus
from cascadexml.errors import CascadeXMLError, ConfigError, DataError
from cascadexml.evaluation.report import OURS
from cascadexml.ranking import Ranking
from stages import ARTIFACT, CORPUS, HELD_OUT

OUT = Path("data/benchmarks/accuracy")

log = logging.getLogger(__name__)


def main() -> None:
    """Print the table and the lines, or say in one line what is wrong."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s", datefmt="%H:%M:%S")
    arguments = parsed()
    try:
        settings = load_settings(arguments.run / "params.yaml")
        chosen = wanted(peers(settings, arguments.max_steps), arguments.with_, arguments.only)
        others = [named_ranking(each) for each in arguments.ranking]
        corpus = Corpus.load(arguments.run / CORPUS)
        entries = [ours(arguments.run, corpus, settings, arguments.out), *others]
        entries += answers(chosen, corpus, settings, arguments.out)
        refuse_others(entries, corpus)
        rows = compare(entries, corpus, settings)
    except CascadeXMLError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(1)
    print(markdown(rows), end="\n\n")
    for line in json_lines(rows):
        print(json.dumps(line))


def parsed() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--run", type=Path, default=Path(), help="the checkout with the finished run")
    parser.add_argument("--out", type=Path, default=OUT, help="where the peers' rankings are kept")
    parser.add_argument("--with", dest="with_", nargs="+", default=[], help="peers that take long, besides the others")
    parser.add_argument("--only", nargs="+", default=[], help="these peers alone")
    parser.add_argument("--ranking", nargs="+", default=[], help="further rankings of test, each NAME=FILE.npz")
    parser.add_argument("--max-steps", type=int, help="end the trainings of transformers early, to see that they run")
    return parser.parse_args()


def wanted(known: dict[str, Peer], added: list[str], only: list[str]) -> dict[str, Peer]:
    """The peers to compare with.

    Raises:
        ConfigError: one of them is not known.
    """
    for name in (*added, *only):
        if name not in known:
            raise ConfigError(f"there is no peer {name!r}: expected one of {', '.join(known)}.")
    names = only or [name for name, peer in known.items() if not peer.asked_for or name in added]
    return {name: known[name] for name in known if name in (*names, *added)}


def named_ranking(argument: str) -> Entry:
    """What NAME=FILE.npz names.

    Raises:
        ConfigError: it is something else.
        FormatError: the file is no ranking.
    """
    name, equals, file = argument.partition("=")
    if not (name and equals and file):
        raise ConfigError(f"--ranking {argument!r} is not of the form NAME=FILE.npz: name the ranking of test.")
    return Entry(name, {"test": Ranking.load(Path(file))})


def ours(run: Path, corpus: Corpus, settings: Settings, out: Path) -> Entry:
    """The run's model: its figures are those of the ranking that evaluate left, its speed that of its artifact.

    Raises:
        DataError: the run left no ranking of test.
    """
    file, artifact = run / HELD_OUT / "test.npz", run / ARTIFACT
    if not file.is_file():
        raise DataError(f"{file} is missing: the run must have come to its evaluation; run make run there.")
    rankings = {"test": Ranking.load(file)}
    if not (artifact / MANIFEST).is_file():
        return Entry(OURS, rankings)
    key = {"artifact": sha256_of(artifact / MANIFEST)}
    answer = Answer.load(out / "ours", key)
    if answer is None:
        answer = ranked_by(artifact, corpus, settings)
        answer.save(out / "ours", key)
    return Entry(OURS, rankings, None, answer.ranking["test"], answer.machine, answer.measured)


def ranked_by(artifact: Path, corpus: Corpus, settings: Settings) -> Answer:
    """Rank test with a model, from its texts on."""
    from cascadexml.serving.predictor import Predictor

    predictor, texts = Predictor.load(artifact, settings.train.device), corpus.splits["test"].texts
    predictor.rank(texts[:1], settings.evaluate.top_k)
    with Clock.running() as clock:
        ranking = predictor.rank(texts, settings.evaluate.top_k)
    return Answer({"test": ranking}, Clock(), {"test": clock})


def answers(chosen: dict[str, Peer], corpus: Corpus, settings: Settings, out: Path) -> Iterator[Entry]:
    """Each peer's, made or found; a peer that fails ends the command, and those before it are kept."""
    out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=out) as scratch:
        task = Task(corpus, settings.evaluate.top_k, settings.seed, Path(scratch))
        for name, peer in chosen.items():
            log.info("%s", peer.caption)
            found = peer.kept_or_made(task, out / name)
            times = (found.training, found.ranking["test"], found.machine, found.measured)
            yield Entry(peer.caption, found.rankings, *times)


def refuse_others(entries: list[Entry], corpus: Corpus) -> None:
    """Refuse rankings of other documents or labels.

    Raises:
        DataError: there is one.
    """
    for entry in entries:
        for split, ranking in entry.rankings.items():
            N, width = len(corpus.splits[split]), len(corpus.vocabulary)
            if ranking.shape[0] != N or ranking.labels.max(initial=-1) >= width:
                raise DataError(
                    f"the ranking of {entry.caption!r} is not one of the {N} documents of {split} and "
                    f"the {width} labels of the corpus: take the ranking of the same run."
                )


if __name__ == "__main__":
    main()
