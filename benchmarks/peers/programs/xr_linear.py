"""XR-Linear of PECOS, with the defaults of its training command; see handover.py."""

from handover import Work
from pecos.xmc import Indexer, LabelEmbeddingFactory
from pecos.xmc.xlinear.model import XLinearModel

work = Work()
X, Y = work.features("train"), work.labels()
with work.timed("training"):
    tree = Indexer.gen(LabelEmbeddingFactory.create(Y.tocsc(), X, method="pifa"), seed=work.settings["seed"])
    model = XLinearModel.train(X, Y.tocsc(), C=tree)
work.rank(lambda split: model.predict(work.features(split), only_topk=work.K))
