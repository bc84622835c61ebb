"""Mines a corpus of mathematical pages from Common Crawl (paper section 2.1). It needs no JAX and runs alone:

    from pathlib import Path
    from dsmath_jax.corpus.pipeline import mine
    from dsmath_jax.corpus.settings import CorpusSettings, FastTextSettings
    from dsmath_jax.toy import world
    from dsmath_jax.toy.settings import ToySettings

    world.write(Path("data"), seed=0, settings=ToySettings(pages=300))  # a generated crawl; or your own WARC files
    fasttext = FastTextSettings(dim=16, lr=0.5, min_count=1, epochs=25, bucket=20_000)
    settings = CorpusSettings(input="crawl/*.warc.gz", min_score=0.5, iterations=2, fasttext=fasttext)
    summary = mine(settings, seed=0, data_dir=Path("data"), out=Path("corpus"))
    print(summary["documents_kept"], "documents in corpus/documents, data card in corpus/card.html")

`reading.warc.read_pages`, `text.html_text.html_to_text` and `decontaminate.Benchmarks` are its steps for single pages.
"""
