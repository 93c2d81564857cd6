"""What only a process of its own can show: a missing encoder without the hub, tokenizing in several processes."""

import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.integration

LOAD = "from cascadexml.rankers.cascade.encoder import load_encoder\nload_encoder('no-such-owner/no-such-encoder')"

TOKENIZE = """
import sys, transformers
from pathlib import Path
from cascadexml.data.tokens import TokenStore
if __name__ == "__main__":
    tokenizer = transformers.ByT5Tokenizer(model_max_length=64)
    texts = [f"text number {n}" for n in range(9000)]
    stores = [TokenStore.build(Path(sys.argv[1]) / str(n), texts, tokenizer, 20, processes=n) for n in (1, 2)]
    assert stores[0].fingerprint == stores[1].fingerprint
"""


@pytest.mark.parametrize(
    ("environment", "message"),
    [
        ({"HF_HUB_OFFLINE": "1"}, "HF_HUB_OFFLINE is set"),
        # Nothing listens on port 9 of this machine.
        ({"HF_HUB_OFFLINE": "0", "HF_ENDPOINT": "http://127.0.0.1:9"}, "hub cannot be reached"),
    ],
)
def test_a_missing_encoder_is_one_sentence_at_once(environment: dict[str, str], message: str, tmp_path: Path) -> None:
    run = subprocess.run(
        [sys.executable, "-c", LOAD],
        env={"PATH": "", "HF_HOME": str(tmp_path), **environment},
        capture_output=True,
        text=True,
        timeout=120,
    )
    last = run.stderr.strip().splitlines()[-1]
    assert last.startswith("cascadexml.errors.EncoderError: encoder 'no-such-owner/no-such-encoder'")
    assert message in last
    assert "Retrying" not in run.stderr


def test_a_tokenizer_written_in_python_runs_in_processes(tmp_path: Path) -> None:
    (tmp_path / "run.py").write_text(TOKENIZE)
    subprocess.run([sys.executable, tmp_path / "run.py", tmp_path], check=True, timeout=200)
