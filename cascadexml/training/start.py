"""How a training begins: the network that the settings describe, and its first weights."""

import logging
from typing import TYPE_CHECKING

import torch

from cascadexml.data.tokens import tokenizer_fingerprint
from cascadexml.errors import ConfigError
from cascadexml.progress import Progress
from cascadexml.rankers.cascade.centroids import start_at_centroids
from cascadexml.rankers.cascade.encoder import load_encoder, load_tokenizer
from cascadexml.rankers.cascade.network import CascadeXML, derive_config
from cascadexml.rankers.cascade.positives import LevelPositives
from cascadexml.rankers.cascade.warm_start import copy_weights, start_new_labels
from cascadexml.training.distributed import Group
from cascadexml.training.precision import in_bf16
from cascadexml.training.run import Run

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

log = logging.getLogger(__name__)


def tokenizer_of(run: Run) -> "PreTrainedTokenizerBase":
    """The tokenizer of the run's encoder.

    Raises:
        ConfigError: the run's tokens are another tokenizer's.
        EncoderError: it cannot be found or used.
    """
    tokenizer = load_tokenizer(run.encoder.name, run.encoder.revision)
    if tokenizer_fingerprint(tokenizer) != run.tokens["train"].tokenizer_fingerprint:
        raise ConfigError(
            f"the tokens were not made by the tokenizer of {run.encoder.name}: tokenize again, or set encoder.name "
            "to the encoder that they were made for."
        )
    return tokenizer


def build_network(run: Run, device: torch.device, group: Group) -> CascadeXML:
    """The network on `device`: a pre-trained encoder, the rest at random by the run's seed; the lowest layers frozen.

    Where the settings say so, the processes of the group share the rows of lean heads.

    Raises:
        ConfigError: the settings do not fit the encoder, the tree or the number of processes.
        EncoderError: the encoder cannot be found or used.
    """
    torch.manual_seed(run.seed)
    transformer = load_encoder(run.encoder.name, run.encoder.revision, run.settings.encoder_dropout)
    config = derive_config(run.settings, transformer.config.num_hidden_layers, run.tree)
    if device.type == "cpu" and in_bf16(run.settings, device):
        # PyTorch's fused attention for CPUs takes five times as long in bf16, backwards, as in float32.
        transformer.set_attn_implementation("eager")
    network = CascadeXML(transformer, run.tree, config, peers=group if run.settings.sharded else None).to(device)
    if run.settings.sharded and group.size > 1 and not network.shared:
        raise ConfigError(
            f"train.sharded is true and {group.size} processes can share no classifier: none over a level of the label "
            f"tree {list(run.tree.levels)} with as many clusters is lean; set train.heads to lean, start fewer "
            "processes, or set train.sharded to false."
        )
    network.freeze(run.settings.freeze_layers)
    log.info(
        "model: %d resolutions over clusters %s and %d labels, taps %s, shortlists %s",
        len(network.heads),
        list(run.tree.levels),
        run.tree.L,
        config.taps,
        config.shortlist,
    )
    return network


def start_weights(run: Run, network: CascadeXML, positives: LevelPositives, group: Group, progress: Progress) -> None:
    """Set the weights before the first step, on every process: those of the base, or rows at centroids.

    Raises:
        ConfigError: the network does not fit the base.
        FormatError: the base is truncated, tampered with, of another kind or version.
    """
    # Before the lead works alone: settings that do not fit the base are refused by every process at once.
    first = copy_weights(network, run.base) if run.base is not None else 0
    if run.base is None and run.settings.head_init != "centroid":
        return
    tokens, size = run.tokens["train"], run.settings.micro_batch_size
    # Each sees to the rows that it holds; where all hold all, the first does the work.
    works = group.leads or network.shared
    if works and run.base is None:
        start_at_centroids(network, tokens, positives, size, run.seed, progress)
    elif works:
        start_new_labels(network, first, tokens, run.corpus.splits["train"].Y, size, run.seed, progress)
    group.copy_from_lead(network.replicated)
