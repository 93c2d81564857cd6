"""XR-Transformer of PECOS, with the defaults of its training command but for those named; see handover.py."""

from handover import Work
from pecos.utils import torch_util
from pecos.xmc import Indexer, LabelEmbeddingFactory
from pecos.xmc.xtransformer.model import XTransformer
from pecos.xmc.xtransformer.module import MLProblemWithText

work = Work()
torch_util.set_seed(work.settings["seed"])
X, Y = work.features("train"), work.labels()
# A flat dictionary reaches every part that knows a name, as it does in the training command.
told = work.settings["params"] | {"model_shortcut": work.settings["encoder"]}
train = XTransformer.TrainParams.from_dict(told, recursive=True)
predict = XTransformer.PredParams.from_dict(told, recursive=True)
with work.timed("training"):
    tree = Indexer.gen(LabelEmbeddingFactory.pifa(Y, X), train_params=train.preliminary_indexer_params)
    problem = MLProblemWithText(work.texts("train"), Y, X_feat=X)
    model = XTransformer.train(problem, clustering=tree, train_params=train, pred_params=predict)
work.rank(lambda split: model.predict(work.texts(split), X_feat=work.features(split), only_topk=work.K))
