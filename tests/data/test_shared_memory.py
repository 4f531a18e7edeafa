"""A corpus that goes through Ray is there once a node: processes that read all of it do not grow by its size."""

from dataclasses import replace

import pytest

from selftrain.data.columns import TextColumn
from selftrain.data.corpus import Corpus, Documents, Label, document_id
from selftrain.runtime.ray_start import start_ray

pytestmark = pytest.mark.ray

SIZE = 60 << 20  # bytes of texts


@pytest.fixture(scope="module")
def corpus():
    texts = TextColumn.of(f"{number} {'and so on ' * 200}" for number in range(SIZE // 2000))
    ids = TextColumn.of(document_id(text) for text in texts)
    return Corpus("large", (Label("x", "x", "x"),), ("{label}",), Documents(ids, texts), Documents())


@pytest.fixture(scope="module")
def readers():
    """Two processes, each of which says by how many bytes its own memory grew when it got a corpus, read all of it and looked a document up."""
    import ray

    start_ray(num_cpus=2, object_store_memory=4 * SIZE)

    @ray.remote(num_cpus=0)
    class Reader:
        def own(self):
            with open("/proc/self/smaps_rollup") as lines:
                return sum(int(line.split()[1]) << 10 for line in lines if line.startswith("Private_"))

        def grown(self, held):
            import gc

            from selftrain.data.columns import TextColumn
            from selftrain.data.corpus import Documents
            from selftrain.data.index import DocumentIndex

            few = Documents(TextColumn.of(["a"]), TextColumn.of(["b"]))  # what is imported is no part of it
            assert DocumentIndex([few])["a"] == "b" and list(few.contents) == ["b"]
            gc.collect()
            before = self.own()
            self.corpus = ray.get(held[0])
            documents = self.corpus.unlabeled
            index = DocumentIndex([documents, self.corpus.test])
            characters = sum(map(len, documents.contents))
            assert index[documents.ids[-1]] == documents.contents[-1] and documents.contents[5:7] == documents.contents[5:][:2]
            return self.own() - before, characters

    yield [Reader.remote() for _ in range(2)]
    ray.shutdown()


def test_two_processes_that_read_a_corpus_have_one_copy_of_it(corpus, readers):
    import ray

    characters = sum(map(len, corpus.unlabeled.contents))
    held = [ray.put(corpus)]
    for grown, read in ray.get([reader.grown.remote(held) for reader in readers]):
        assert read == characters and grown < SIZE / 4
    part = replace(corpus, unlabeled=Documents(corpus.unlabeled.ids[:100], corpus.unlabeled.contents[:100]))
    assert ray.get(ray.put(part)) == part
    as_tuples = replace(corpus, unlabeled=Documents(tuple(corpus.unlabeled.ids), tuple(corpus.unlabeled.contents)))
    held = [ray.put(as_tuples)]
    grown, read = ray.get(readers[0].grown.remote(held))
    assert read == characters and grown > SIZE / 2  # so that what is measured is seen
