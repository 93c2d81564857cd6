"""The cascade as a ranker: the network, and the tokenizer whose tokens it was trained on."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, Self

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from cascadexml.bundle import Bundle
from cascadexml.checked_json import whole
from cascadexml.data.tokens import Tokens, tokenize
from cascadexml.device import is_out_of_memory, pick_device
from cascadexml.errors import EncoderError, FormatError
from cascadexml.progress import Progress, silent
from cascadexml.rankers.base import BATCH_SIZE, FORMATS, Documents
from cascadexml.rankers.cascade.encoder import save_tokenizer
from cascadexml.rankers.cascade.inference import Network, rank_tokens, rank_tokens_with_vectors
from cascadexml.rankers.cascade.network import FORMAT as NETWORK_FORMAT
from cascadexml.rankers.cascade.network import UNFIT, CascadeXML, told
from cascadexml.rankers.cascade.tokenizer_files import greatest_id, load_packed_tokenizer
from cascadexml.ranking import Ranking

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

FORMAT = FORMATS["cascade"]
LONGEST = 2**17
"""Tokens of a text that a file may name."""


@dataclass(eq=False)
class TokenRanker(ABC):
    """A trained network behind its tokenizer, ready to rank texts or their tokens.

    A text's scores are the same, to about 1e-6, alone and in any batch. A text that the tokenizer gives nothing but
    special tokens for has no content. A long text is cut to `max_length` tokens, as in training.

    Attributes:
        network: on the device that is to do the work.
        tokenizer: what made the training's tokens.
        max_length: tokens that a text is cut to, special ones included.
        batch_size: documents scored at once.
    """

    network: Network
    tokenizer: "PreTrainedTokenizerBase"
    max_length: int
    batch_size: int = BATCH_SIZE

    def __post_init__(self) -> None:
        if self.batch_size < 1:
            raise ValueError(f"batch_size is {self.batch_size}, expected at least 1")

    @property
    def L(self) -> int:  # noqa: N802
        """How many labels it ranks."""
        return self.network.tree.L

    def rank(self, documents: Documents, K: int, *, progress: Progress = silent) -> Ranking:
        """The best K labels of N documents: (N, K), with the network's scores in (0, 1).

        Raises:
            PredictionError: out of memory, or a text with content gets no label.
        """
        return rank_tokens(self.network, self.tokens_of(documents), K, self.batch_size, progress)

    def rank_with_vectors(
        self, documents: Documents, K: int, *, progress: Progress = silent
    ) -> tuple[Ranking, npt.NDArray[np.float32]]:
        """What `rank` gives, and the (N, d) vectors that the label classifiers read, in one pass."""
        return rank_tokens_with_vectors(self.network, self.tokens_of(documents), K, self.batch_size, progress)

    def tokens_of(self, documents: Documents) -> Tokens:
        """The documents' tokens, made now where they are not at hand."""
        if documents.tokens is not None:
            return documents.tokens
        return tokenize(documents.texts, self.tokenizer, self.max_length)

    @abstractmethod
    def save(self, folder: Path) -> None:
        """As of `Ranker`."""

    @classmethod
    @abstractmethod
    def load(cls, place: Path | Bundle, device: str = "auto", batch_size: int = BATCH_SIZE) -> Self:
        """As of `Ranker`."""


@dataclass(eq=False)
class CascadeRanker(TokenRanker):
    """The network as it was trained, in torch."""

    network: CascadeXML

    kind: ClassVar = "cascade"

    def save(self, folder: Path) -> None:
        """Write a bundle to `folder`: the network's own bundle and the tokenizer's files."""
        with FORMAT.write(folder, {"L": self.L, "max_length": self.max_length}) as new:
            self.network.save(new / "network")
            save_tokenizer(self.tokenizer, new / "tokenizer", new / "network" / "encoder.json")

    @classmethod
    def load(cls, place: Path | Bundle, device: str = "auto", batch_size: int = BATCH_SIZE) -> Self:
        """Read what `save` wrote.

        Args:
            place: where it lies, or the bundle that has been verified.
            device: "cpu", "cuda", "cuda:1", "mps", or "auto": the best one there is, which is logged.
            batch_size: documents scored at once.

        Raises:
            FormatError: it is truncated, tampered with, of another kind or version, or its parts do not fit.
            PredictionError: `device` is not there.
        """
        chosen = pick_device(device)
        found = FORMAT.read(place)
        max_length = max_length_of(found)
        network = CascadeXML.load(found.part("network", NETWORK_FORMAT), str(chosen))
        rows = int(network.encoder.get_input_embeddings().num_embeddings)  # type: ignore[arg-type]
        tokenizer = load_packed_tokenizer(found.path / "tokenizer", max_length, rows)
        check_runs(network.vectors, found.path, max_length, tokenizer, network.device)
        return cls(network, tokenizer, max_length, batch_size)


def max_length_of(found: Bundle) -> int:
    """The tokens that a text is cut to, as the bundle of a `TokenRanker` says.

    Raises:
        FormatError: it does not.
    """
    try:
        return whole(found.meta, "max_length", 1, LONGEST)
    except ValueError as error:
        raise FormatError(f"{found.path} does not say how long a text may be ({error}): make it again.") from None


def check_runs(
    vectors: Callable[[Tensor, Tensor], Sequence[Tensor]],
    path: Path,
    max_length: int,
    tokenizer: "PreTrainedTokenizerBase",
    device: torch.device,
) -> None:
    """Have a network read the longest text that it may be given, made of the last token of its tokenizer.

    What its settings make it do shows when it runs, and is told here and not at somebody's text.

    Raises:
        FormatError: it cannot, or gives no numbers.
    """
    ids = torch.full((1, max_length), greatest_id(tokenizer), device=device)
    try:
        with torch.inference_mode():
            finite = all(bool(each.isfinite().all()) for each in vectors(ids, torch.ones_like(ids)))
    except (EncoderError, ArithmeticError, AttributeError, LookupError, *UNFIT) as error:
        if is_out_of_memory(error):
            raise
        raise FormatError(f"{path} cannot read a text of {max_length} tokens ({told(error)}): make it again.") from None
    if not finite:
        raise FormatError(f"{path} gives vectors that are no numbers: fetch or train the model again.")
