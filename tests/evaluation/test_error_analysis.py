"""The page of examples; synthetic documents with hostile texts."""

from html.parser import HTMLParser

import numpy as np
import pyarrow as pa
import pytest
from scipy import sparse

from cascadexml.data.corpus import Split
from cascadexml.data.vocabulary import Vocabulary
from cascadexml.evaluation.error_analysis import examples_page
from cascadexml.ranking import NO_LABEL, Ranking

VOCABULARY = Vocabulary(("gnd:1", "gnd:2", "<i>3", "gnd:4"), ("Energy", None, "<script>alert(1)</script>", "Late"), L=3)


class Page(HTMLParser):
    """The tags of a page, and the text of each article."""

    def __init__(self, html):
        super().__init__()
        self.tags, self.articles, self.inside = set(), [], False
        self.feed(html)

    def handle_starttag(self, tag, attrs):
        self.tags.add(tag)
        if tag == "article":
            self.articles.append("")
            self.inside = True

    def handle_endtag(self, tag):
        self.inside = self.inside and tag != "article"

    def handle_data(self, data):
        if self.inside:
            self.articles[-1] += data


@pytest.fixture
def split():
    # Truth: 0 hits first, 1 hits second, 2 misses surely, 3 misses unsurely, 4 has no label.
    Y = np.array([[1, 0, 0, 0], [0, 1, 0, 0], [0, 0, 0, 1], [0, 0, 1, 1], [0, 0, 0, 0]], np.float32)
    texts = ["plain", "<b>bold</b> & co", "</article><script>alert(2)</script>", 'quote " {brace}', "unlabelled"]
    ids = ["d0", "d1", "<d2>", "d3", "d4"]
    return Split(ids, texts, sparse.csr_matrix(Y), pa.table({"n": list(range(5))}))


@pytest.fixture
def ranking():
    labels = np.array([[0, 1, 2], [0, 1, 2], [0, 1, 2], [0, 1, NO_LABEL], [0, 1, 2]], np.int32)
    scores = np.array([[0.9, 0.5, 0.1], [0.8, 0.7, 0.2], [0.95, 0.3, 0.2], [0.4, 0.1, -np.inf], [0.9, 0.5, 0.1]])
    return Ranking(labels, scores.astype(np.float32))


def test_worst_are_the_confidently_wrong_and_best_the_right(split, ranking):
    page = Page(examples_page(ranking, split, VOCABULARY, k=3, count=2))
    assert ["<d2>" in page.articles[0], "d3" in page.articles[1]] == [True, True]
    assert ["d0" in page.articles[2], "d1" in page.articles[3]] == [True, True]
    assert "nDCG@3 0.000" in page.articles[0]
    assert "nDCG@3 1.000" in page.articles[2]


def test_texts_ids_and_names_are_shown_as_text_and_never_run(split, ranking):
    html = examples_page(ranking, split, VOCABULARY, k=3, count=5)
    page = Page(html)
    assert not page.tags & {"script", "b", "i", "img", "link"}
    assert len(page.articles) == 8
    shown = "".join(page.articles)
    for text in ("<b>bold</b> & co", "</article><script>alert(2)</script>", 'quote " {brace}', "<d2>", "<i>3"):
        assert text in shown
    assert "default-src 'none'" in html
    assert "http://" not in html
    assert "https://" not in html


def test_hits_places_probabilities_and_misses_are_told(split, ranking):
    worst, unsure, first, second = Page(examples_page(ranking, split, VOCABULARY, k=3, count=2)).articles
    assert "✓Energy gnd:1place 1" in first
    assert "✓Energy gnd:190.0%" in first
    assert "✓gnd:2place 2" in second
    assert "✗Energy gnd:180.0%" in second
    assert "✗Late gnd:4not in train" in worst
    assert "not in the top 2" in unsure


def test_a_page_of_real_records(small_corpus):
    test = small_corpus.splits["test"]
    scores = np.random.default_rng(0).random((len(test), small_corpus.vocabulary.L))
    page = Page(examples_page(Ranking.from_scores(scores, 20), test, small_corpus.vocabulary, k=20, count=10))
    assert len(page.articles) == 20
    assert all("True labels" in article and "Suggestions" in article for article in page.articles)
