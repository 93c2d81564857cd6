"""The label tree of PECOS, PIFA and hierarchical 2-means, with its defaults but for those named; see handover.py.

Leaves `tree.npz`, the (L, C) clusters of the labels, and `peak.json`, the greatest resident size in GB.
"""

import json
import resource

from handover import Work
from pecos.xmc import Indexer, LabelEmbeddingFactory
from scipy import sparse

work = Work()
X, Y = work.features("train"), work.labels().tocsc()
with work.timed("features"):
    Z = LabelEmbeddingFactory.create(Y, X, method="pifa")
with work.timed("tree"):
    chain = Indexer.gen(Z, seed=work.settings["seed"], **work.settings["indexer"])
peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
sparse.save_npz(work.out / "tree.npz", sparse.csr_matrix(chain[len(chain) - 1]))
(work.out / "peak.json").write_text(json.dumps(peak), encoding="utf-8")
work.write_times()
