"""What an import loads and what it does without: each in a process of its own, as only that can show."""

import subprocess
import sys
from pathlib import Path

import pytest

from cascadexml.data.corpus import Corpus
from tests.support.tiny_artifacts import pack_tiny

pytestmark = pytest.mark.integration

HEAVY = "torch transformers sklearn pandas matplotlib great_expectations evidently"
EXTRAS = "boto3 botocore filelock tenacity cryptography"


def run(code: str, *arguments: str, cwd: Path) -> str:
    done = subprocess.run([sys.executable, "-c", code, *arguments], capture_output=True, text=True, cwd=cwd)
    assert done.returncode == 0, done.stderr
    return done.stdout


def loaded(code: str, names: str, cwd: Path) -> list[str]:
    """Those of `names`, divided by spaces, that a process has loaded once it has run `code`."""
    return run(f"{code}\nimport sys\nprint(*set(sys.argv[1].split()) & set(sys.modules))", names, cwd=cwd).split()


@pytest.mark.parametrize(
    "module",
    [
        "cascadexml.evaluation.report",
        "cascadexml.evaluation.candidates",
        "cascadexml.evaluation.judgement",
        "cascadexml.monitoring.verdict",
        "cascadexml.monitoring.history",
    ],
)
def test_the_types_of_documents_come_without_torch(module: str, repo_root: Path) -> None:
    """What flows import of them must not cost a process seconds and a gigabyte."""
    assert loaded(f"import {module}", HEAVY, repo_root) == []


def test_the_package_comes_without_torch(repo_root: Path) -> None:
    assert loaded("import cascadexml; cascadexml.__version__", HEAVY, repo_root) == []


def test_the_registry_comes_without_torch(repo_root: Path) -> None:
    code = "from cascadexml.registry import ANY, Move, Registry, Removed, Version"
    assert loaded(code, HEAVY, repo_root) == []


@pytest.mark.parametrize(
    "module", ["base", "linear", "loading", "mixture", "names", "neighbours", "popularity", "vectors"]
)
def test_the_contract_of_rankers_needs_neither_torch_nor_scikit_learn(module: str, repo_root: Path) -> None:
    assert loaded(f"import cascadexml.rankers.{module}", HEAVY, repo_root) == []


def test_the_classifier_comes_without_scikit_learn_and_the_pipeline(repo_root: Path) -> None:
    code = "from cascadexml import CascadeXMLClassifier as C; C().get_params()"
    names = "sklearn great_expectations evidently dvc prefect"
    assert loaded(code, names, repo_root) == []


def test_a_folder_is_opened_without_torch_and_what_talks_to_a_store(
    tmp_path: Path, small_corpus: Corpus, repo_root: Path
) -> None:
    code = """
import sys
for name in sys.argv[2].split():
    sys.modules[name] = None  # as if it were not installed
from cascadexml.registry import open_model
print(open_model(sys.argv[1]).meta["name"])
"""
    artifact = pack_tiny(tmp_path, small_corpus)
    assert run(code, str(artifact), f"{HEAVY} {EXTRAS}", cwd=repo_root) == "tiny\n"
