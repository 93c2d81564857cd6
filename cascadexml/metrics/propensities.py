"""Propensities: how likely a label that belongs to a document was annotated, from its uses in train."""

import numpy as np
from scipy import sparse

from cascadexml.errors import ConfigError
from cascadexml.metrics.ratios import Float64


def inverse_propensities(Y_train: sparse.csr_matrix, A: float, B: float) -> Float64:
    """How much rarer than it should be each label is annotated, from its uses in train.

    1 / p_l = 1 + C (N_l + B)^-A with C = (log N - 1)(B + 1)^A, natural logarithm (Jain, Prabhu, Varma, 2016, "Extreme
    multi-label loss functions", equation 3). Labels unseen in train have N_l = 0.

    Args:
        Y_train: (N, len(vocabulary)) labels of the train split.
        A: the exponent; 0.55 unless the data set has its own.
        B: the offset; 1.5 unless the data set has its own.

    Returns:
        (len(vocabulary),) inverse propensities.

    Raises:
        ConfigError: B is 0 and a label has no use in train: its propensity would be 0.
    """
    N, V = Y_train.shape
    uses = np.bincount(Y_train.indices, minlength=V).astype(np.float64)
    if B == 0 and not uses.all():
        raise ConfigError("evaluate.propensity_b is 0, but some labels have no use in train: give it a value above 0.")
    C = (np.log(max(N, 1)) - 1) * (B + 1) ** A
    return np.asarray(1 + C * (uses + B) ** -A)
