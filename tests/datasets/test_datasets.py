"""Data set folders are read line by line, and public forms become folders."""

from __future__ import annotations

import argparse
import gzip
import json
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from app.cli import convert
from services.datasets import beir, esci, msrd, wands
from services.datasets.convert import Summary
from services.datasets.folder import Dataset, DatasetQuery, HistoryEvent, Judgment, write_folder
from services.datasets.splits import part, split
from services.datasets.trec import read_qrels, read_run, write_run
from services.errors import InvalidRequest, SettingsInvalid
from services.ndjson import MAX_LINE_BYTES


def lines(path: Path, *entries: Any) -> Path:
    """Write JSON lines (dicts) or plain ones (strings)."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join((e if isinstance(e, str) else json.dumps(e)) + "\n" for e in entries), encoding="utf-8")
    return path


def counts(summary: Summary) -> tuple[int, int, int, int]:
    return summary.items, summary.queries, summary.judgements, summary.skipped


def told(summary: Summary) -> list[str]:
    return [str(problem) for problem in summary.problems]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    lines(tmp_path / "catalogue.jsonl", {"id": "a", "title": "Émile"}, {"id": 7})
    lines(
        tmp_path / "queries.tsv",
        "query_id\tsplit\tslice\tuser_id\tweight\tquery",
        "q1\ttrain\ttopic\tu1\t2.5\tsad piano",
        'q2\ttest\t\t\t\t"80s" synth',
    )
    lines(tmp_path / "qrels.tsv", "query_id\tdoc_id\tgrade", "q1\ta\t2", "q1\t7\t0", "q1\ta\t1")
    lines(tmp_path / "history.tsv", "user_id\tobject_id\taction_name\ttimestamp", "u1\ta\tplay\t964980499")
    return tmp_path


class TestFolder:
    def test_everything_in_it_is_read(self, folder: Path) -> None:
        dataset = Dataset.open(folder)
        assert list(dataset.documents()) == [{"id": "a", "title": "Émile"}, {"id": "7"}]
        assert list(dataset.queries()) == [
            DatasetQuery("q1", "train", "sad piano", "topic", "u1", 2.5),
            DatasetQuery("q2", "test", '"80s" synth', "", None, 1.0),
        ]
        assert [q.query_id for q in dataset.queries("test")] == ["q2"]
        assert list(dataset.qrels()) == [Judgment("q1", "a", 2.0), Judgment("q1", "7", 0.0), Judgment("q1", "a", 1.0)]
        assert dataset.judgments() == {"q1": {"a": 1.0, "7": 0.0}}
        assert list(dataset.history()) == [HistoryEvent("u1", "a", "play", 964980499.0)]
        assert dataset.schema is None
        assert dataset.problems == []

    def test_compressed_files_are_read_alike(self, folder: Path) -> None:
        plain = Dataset.open(folder)
        expected = [list(plain.documents()), list(plain.queries()), list(plain.qrels()), list(plain.history())]
        for path in list(folder.iterdir()):
            (folder / f"{path.name}.gz").write_bytes(gzip.compress(path.read_bytes()))
            path.unlink()
        packed = Dataset.open(folder)
        assert [
            list(packed.documents()),
            list(packed.queries()),
            list(packed.qrels()),
            list(packed.history()),
        ] == expected

    def test_a_file_alone_is_a_catalogue(self, folder: Path) -> None:
        dataset = Dataset.open(folder / "catalogue.jsonl")
        assert [d["id"] for d in dataset.documents()] == ["a", "7"]
        assert not dataset.has("queries.tsv")
        assert list(dataset.history()) == []
        with pytest.raises(InvalidRequest, match=r"queries\.tsv is looked for"):
            list(dataset.queries())

    def test_bad_lines_are_passed_over_and_told_by_number(self, folder: Path) -> None:
        lines(folder / "catalogue.jsonl", {"id": "a"}, "{not json", "", "[1]", {"id": True}, '{"id": NaN}', {"id": "b"})
        lines(
            folder / "qrels.tsv",
            "query_id\tdoc_id\tgrade",
            "q1\ta",
            "q1\ta\tgood",
            "",
            "\ta\t1",
            "q1\tb\tnan",
            "q1\tb\t1",
        )
        lines(folder / "queries.tsv", "query_id\tsplit\tquery\tweight", "q1\ttrain\tx\theavy", "q2\ttrain\tx\t-1")
        lines(folder / "history.tsv", "user_id\tobject_id\taction_name\ttimestamp", "u\ta\tplay\tyesterday")
        dataset = Dataset.open(folder)
        assert [d["id"] for d in dataset.documents()] == ["a", "b"]
        assert list(dataset.qrels()) == [Judgment("q1", "b", 1.0)]
        assert list(dataset.queries()) == []
        assert list(dataset.history()) == []
        told = [(p.file, p.line) for p in dataset.problems]
        assert told == [
            *(("catalogue.jsonl", line) for line in (2, 4, 5, 6)),
            *(("qrels.tsv", line) for line in (2, 3, 5, 6)),
            *(("queries.tsv", line) for line in (2, 3)),
            ("history.tsv", 2),
        ]
        assert str(dataset.problems[5]) == "qrels.tsv, line 3: grade 'good' is not a number"

    def test_what_is_no_id_names_no_item(self, folder: Path) -> None:
        lines(folder / "catalogue.jsonl", {"id": ""}, {"id": True}, {"id": None}, {"id": 1.5}, {"id": 0})
        dataset = Dataset.open(folder)
        assert list(dataset.documents()) == [{"id": "0"}]
        assert [p.line for p in dataset.problems] == [1, 2, 3, 4]

    def test_a_line_without_end_costs_itself_only(self, folder: Path) -> None:
        lines(folder / "catalogue.jsonl", {"id": "a"}, "x" * (3 * MAX_LINE_BYTES + 7), {"id": "b"})
        lines(folder / "qrels.tsv", "query_id\tdoc_id\tgrade", "q\t" + "x" * MAX_LINE_BYTES + "\t1", "q1\tb\t1")
        dataset = Dataset.open(folder)
        assert [d["id"] for d in dataset.documents()] == ["a", "b"]
        assert list(dataset.qrels()) == [Judgment("q1", "b", 1.0)]
        assert [(p.line, p.detail) for p in dataset.problems] == [(2, f"longer than {MAX_LINE_BYTES} bytes")] * 2

    def test_a_problem_is_told_once_with_the_name_of_its_file(self, folder: Path) -> None:
        (folder / "qrels.tsv").unlink()
        (folder / "qrels.tsv.gz").write_bytes(gzip.compress(b"query_id\tdoc_id\tgrade\nq1\ta\tgood\n"))
        dataset = Dataset.open(folder)
        assert dataset.judgments() == dataset.judgments() == {}
        assert [str(p) for p in dataset.problems] == ["qrels.tsv.gz, line 2: grade 'good' is not a number"]

    def test_bytes_that_are_no_text_cost_their_line_only(self, folder: Path) -> None:
        (folder / "qrels.tsv").write_bytes(b"\xef\xbb\xbfquery_id\tdoc_id\tgrade\r\nq1\t\xff\xfe\t1\r\nq1\tb\t1\r\n")
        dataset = Dataset.open(folder)
        assert list(dataset.qrels()) == [Judgment("q1", "b", 1.0)]
        assert [p.line for p in dataset.problems] == [2]

    def test_what_is_missing_is_named(self, folder: Path, tmp_path: Path) -> None:
        with pytest.raises(InvalidRequest, match=r"catalogue\.jsonl"):
            Dataset.open(tmp_path / "nowhere")
        (folder / "qrels.tsv").unlink()
        with pytest.raises(InvalidRequest, match=r"has no qrels\.tsv \(or qrels\.tsv\.gz\)"):
            list(Dataset.open(folder).qrels())
        lines(folder / "queries.tsv", "query_id\tquery", "q1\tx")
        with pytest.raises(InvalidRequest, match="no column split"):
            list(Dataset.open(folder).queries())
        (folder / "history.tsv").unlink()
        assert list(Dataset.open(folder).history()) == []
        (folder / "catalogue.jsonl").unlink()
        with pytest.raises(InvalidRequest, match=r"has no catalogue\.jsonl"):
            Dataset.open(folder)

    def test_a_damaged_archive_is_named(self, folder: Path) -> None:
        (folder / "catalogue.jsonl").unlink()
        whole = gzip.compress(b"".join(b'{"id": "%d"}\n' % n for n in range(5000)))
        for damaged in (whole[:-12], whole[:2000] + bytes(200) + whole[2200:], b"no archive"):
            (folder / "catalogue.jsonl.gz").write_bytes(damaged)
            with pytest.raises(InvalidRequest, match=r"catalogue\.jsonl\.gz cannot be read"):
                list(Dataset.open(folder).documents())

    def test_a_schema_in_the_folder_is_the_one_given(self, folder: Path) -> None:
        lines(folder / "schema.toml", 'title = "title"', "[fields]", 'title = "text"')
        schema = Dataset.open(folder).schema
        assert schema is not None
        assert (schema.title, schema.inferred) == ("title", False)
        lines(folder / "schema.toml", "[fields")
        with pytest.raises(SettingsInvalid, match=r"schema\.toml"):
            Dataset.open(folder)

    def test_what_is_written_is_read_again_the_same_bytes_each_time(self, tmp_path: Path) -> None:
        documents = [{"id": "a", "title": "tab\tand\nline"}, {"id": "b"}]
        queries = [DatasetQuery("q1", "train", "two\twords\n", "topic", None, 3.1972257)]
        qrels = [Judgment("q1", "a", 2.0)]
        history = [HistoryEvent("u", "a", "play", 1700000000.0)]
        counts = write_folder(tmp_path / "one", documents, queries, qrels, history)
        write_folder(tmp_path / "two", documents, queries, qrels, history)
        assert counts == {"catalogue.jsonl": 2, "queries.tsv": 1, "qrels.tsv": 1, "history.tsv": 1}
        dataset = Dataset.open(tmp_path / "one")
        assert list(dataset.documents()) == documents
        assert list(dataset.queries()) == [DatasetQuery("q1", "train", "two words", "topic", None, 3.1972257)]
        assert list(dataset.qrels()) == qrels
        assert list(dataset.history()) == history
        for path in (tmp_path / "one").iterdir():
            assert path.read_bytes()[4:8] == bytes(4)  # no time of writing (RFC 1952, MTIME)
            assert path.read_bytes() == (tmp_path / "two" / path.name).read_bytes()

    def test_the_real_folders_are_read_without_a_problem(self, shared: Path) -> None:
        mixed = Dataset.open(shared / "data" / "films-mixed")
        assert sum(1 for _ in mixed.documents()) == 9750
        queries = list(mixed.queries())
        assert len(queries) == 19859
        title = Counter(q.split for q in queries if q.slice == "title")
        assert title == {"train": 7494, "validation": 1862, "test": 2551}
        assert {q.slice for q in queries} == {"title", "typo", "topic", "facet", "personal"}
        assert all((q.user_id is not None) == (q.slice == "personal") for q in queries)
        assert sum(1 for _ in mixed.history()) == 29560
        assert mixed.judgments().keys() >= {q.query_id for q in queries}
        assert mixed.problems == []
        films = Dataset.open(shared / "data" / "msrd")
        assert Counter(q.split for q in films.queries()) == title
        assert list(films.history()) == []
        assert films.problems == []


class TestSplits:
    def test_queries_for_the_same_item_stay_together(self) -> None:
        queries = {f"q{n}": f"text {n}" for n in range(300)}
        judgments = {f"q{n}": {f"d{n % 60}": 1.0, f"other{n}": 0.0} for n in range(300)}
        found = {q.query_id: q.split for q in split(queries, judgments)}
        assert all(found[f"q{n}"] == found[f"q{n % 60}"] for n in range(300))
        # The item that most queries look for decides, whatever else a query finds.
        some = {f"q{n}": {"a": 1.0, f"z{n}": 1.0} for n in range(50)}
        assert len({q.split for q in split(dict.fromkeys(some, "text"), some)}) == 1
        assert set(found.values()) == {"train", "validation", "test"}
        assert split(queries, judgments) == split(queries, judgments)

    def test_shares_and_the_same_parts_on_every_machine(self) -> None:
        parts = Counter(part(f"key {n}") for n in range(4000))
        assert parts["train"] / 4000 == pytest.approx(0.70, abs=0.02)
        assert parts["validation"] / 4000 == pytest.approx(0.15, abs=0.02)
        assert [part(key) for key in ("862", "603", "toy", "émile", "靴")] == (
            ["validation", "train", "test", "train", "validation"]
        )


class TestWands:
    @pytest.fixture
    def source(self, tmp_path: Path) -> Path:
        source = tmp_path / "WANDS"
        lines(
            source / "dataset" / "product.csv",
            "product_id\tproduct_name\tproduct_class\tcategory hierarchy\tproduct_description\tproduct_features\t"
            "rating_count\taverage_rating\treview_count",
            '0\tsolid wood bed\tBeds\tFurniture / Beds\t"a bed, ""good""\nand wide"\t'
            "width:64|color : brown|color : brown\t15.0\t4.5\t15.0",
            "1\tslow cooker\tSlow Cookers\tKitchen\t\t\t\t\t",
        )
        lines(source / "dataset" / "query.csv", "query_id\tquery\tquery_class", "0\twood bed\tBeds", "1\tpot\tCookers")
        lines(
            source / "dataset" / "label.csv",
            "id\tquery_id\tproduct_id\tlabel",
            "0\t0\t0\tExact",
            "1\t0\t1\tIrrelevant",
            "2\t1\t1\tPartial",
            "3\t1\t1\t?",
        )
        return source

    def test_its_tables_become_a_folder(self, source: Path, tmp_path: Path) -> None:
        summary = wands.convert(source, tmp_path / "out")
        assert counts(summary) == (2, 2, 3, 1)
        assert told(summary) == ["label.csv, line 5: label '?' is none of exact, partial, irrelevant"]
        dataset = Dataset.open(tmp_path / "out")
        assert list(dataset.documents()) == [
            {
                "id": "0",
                "product_name": "solid wood bed",
                "product_class": ["Beds"],
                "categories": ["Furniture", "Beds"],
                "product_description": 'a bed, "good"\nand wide',
                "features": ["width: 64", "color: brown"],
                "average_rating": 4.5,
                "rating_count": 15,
                "review_count": 15,
            },
            {"id": "1", "product_name": "slow cooker", "product_class": ["Slow Cookers"], "categories": ["Kitchen"]},
        ]
        assert [(q.query_id, q.text) for q in dataset.queries()] == [("0", "wood bed"), ("1", "pot")]
        assert dataset.judgments() == {"0": {"0": 2.0, "1": 0.0}, "1": {"1": 1.0}}

    def test_bad_lines_are_passed_over_and_told_by_number(self, source: Path, tmp_path: Path) -> None:
        with (source / "dataset" / "product.csv").open("ab") as file:
            file.write(b"2\tlamp \xff" + b"\t" * 7 + b"\n3\tshort\n1\tcooker again" + b"\t" * 7 + b"\n")
            file.write(b"\tno id" + b"\t" * 7 + "\n5\tétagère".encode() + b"\t" * 7 + b"\n")
        with (source / "dataset" / "label.csv").open("a") as file:
            file.write("4\t9\t0\tExact\n")
        summary = wands.convert(source, tmp_path / "out")
        names = [d["product_name"] for d in Dataset.open(tmp_path / "out").documents()]
        assert names == ["solid wood bed", "slow cooker", "étagère"]
        assert told(summary) == [
            "label.csv, line 5: label '?' is none of exact, partial, irrelevant",
            "product.csv, line 5: not UTF-8",
            "product.csv, line 6: 2 cells; the header has 9",
            "product.csv, line 7: item '1' again",
            "product.csv, line 8: no product_id",
            "label.csv, line 6: judgement of query '9', which is not there",
        ]
        assert counts(summary) == (3, 2, 3, 6)

    def test_a_cell_without_end_costs_what_it_holds(self, source: Path, tmp_path: Path) -> None:
        with (source / "dataset" / "product.csv").open("a") as file:
            file.write('2\tlamp\t\t\t"never closed' + "x" * 200_000 + "\n3\ttable" + "\t" * 7 + "\n")
        summary = wands.convert(source, tmp_path / "out")
        assert [d["id"] for d in Dataset.open(tmp_path / "out").documents()] == ["0", "1", "3"]
        assert "product.csv, line 5: field larger than field limit" in told(summary)[1]

    def test_what_is_missing_is_named_and_nothing_half_is_left(self, source: Path, tmp_path: Path) -> None:
        lines(source / "dataset" / "query.csv", "id\tquery", "0\twood bed")
        with pytest.raises(InvalidRequest, match=r"no column for query_id \(query_id\); it has id, query"):
            wands.convert(source, tmp_path / "out")
        lines(source / "dataset" / "query.csv", "query_id\tquery", "0\twood bed")
        products = source / "dataset" / "product.csv"
        products.with_suffix(".csv.gz").write_bytes(gzip.compress(products.read_bytes())[:-9])
        products.unlink()
        with pytest.raises(InvalidRequest, match=r"product\.csv\.gz cannot be read"):
            wands.convert(source, tmp_path / "out")
        assert {path.name for path in tmp_path.iterdir()} == {"WANDS"}
        (source / "dataset" / "query.csv").unlink()
        with pytest.raises(InvalidRequest, match="has no query or queries"):
            wands.convert(source, tmp_path / "out")

    def test_what_is_in_the_target_is_never_written_over(self, source: Path, tmp_path: Path) -> None:
        mine = lines(tmp_path / "out" / "catalogue.jsonl", {"id": "mine"})
        with pytest.raises(InvalidRequest, match="is there already"):
            wands.convert(source, tmp_path / "out")
        assert list((tmp_path / "out").iterdir()) == [mine]
        mine.unlink()
        assert wands.convert(source, tmp_path / "out").items == 2


class TestEsci:
    @pytest.fixture
    def source(self, tmp_path: Path) -> Path:
        source = tmp_path / "shopping_queries_dataset"
        lines(
            source / "shopping_queries_dataset_examples.csv",
            "example_id,query,query_id,product_id,product_locale,esci_label,small_version,large_version,split",
            '1," red, shoes",11,B1,us,E,1,1,train',
            "2,red shoes,11,B2,us,Substitute,1,1,train",
            "3,lamp,12,B2,us,I,1,1,test",
            "4,lamp,12,B1,us,C,1,1,test",
            "5,zapato,13,B9,es,E,1,1,test",
            "6,easy,14,B3,us,E,0,1,train",
            "7,lamp,12,B1,us,X,1,1,test",
        )
        product = {"product_locale": "us", "product_brand": "Acme", "product_color": None, "product_description": ""}
        lines(
            source / "shopping_queries_dataset_products.jsonl",
            {"product_id": "B1", "product_title": "Red shoe", **product},
            {"product_id": "B2", "product_title": "Blue shoe", **product},
            {"product_id": "B3", "product_title": "Easy", **product},
            {"product_id": "B4", "product_title": "Judged for nothing", **product},
            {"product_id": "B9", "product_title": "靴", **product, "product_locale": "es"},
        )
        return tmp_path

    def test_one_locale_of_its_tables_becomes_a_folder(self, source: Path, tmp_path: Path) -> None:
        summary = esci.convert(source, tmp_path / "out")
        assert counts(summary) == (2, 2, 4, 1)
        assert told(summary) == ["shopping_queries_dataset_examples.csv, line 8: label 'X' is none of E, S, C, I"]
        dataset = Dataset.open(tmp_path / "out")
        assert next(dataset.documents()) == {"id": "B1", "product_title": "Red shoe", "product_brand": "Acme"}
        assert {q.text: q.split for q in dataset.queries()} == {"red, shoes": "train", "lamp": "test"}
        assert dataset.judgments() == {"11": {"B1": 3.0, "B2": 2.0}, "12": {"B2": 0.0, "B1": 1.0}}
        assert counts(esci.convert(source, tmp_path / "es", locale="es")) == (1, 1, 1, 0)
        assert next(Dataset.open(tmp_path / "es").documents())["product_title"] == "靴"

    def test_the_large_version_has_the_easy_queries_too(self, source: Path, tmp_path: Path) -> None:
        assert counts(esci.convert(source, tmp_path / "out", version="large")) == (3, 3, 5, 1)

    def test_a_tenth_of_the_training_queries_is_for_validation(self, source: Path, tmp_path: Path) -> None:
        published = source / "shopping_queries_dataset" / "shopping_queries_dataset_examples.csv"
        published.unlink()
        lines(
            published,
            "query,query_id,product_id,product_locale,esci_label,small_version,split",
            *(f"query {n},{n},B1,us,E,True,{'train' if n < 1000 else 'test'}" for n in range(1100)),
        )
        splits = esci.convert(source, tmp_path / "out").splits
        assert splits["test"] == 100
        assert 70 <= splits["validation"] <= 130

    def test_parquet_without_its_library_says_what_to_do(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setitem(sys.modules, "pyarrow.parquet", None)  # as if it were not installed
        (tmp_path / "examples.parquet").write_bytes(b"PAR1")
        (tmp_path / "products.parquet").write_bytes(b"PAR1")
        with pytest.raises(InvalidRequest, match="needs pyarrow; install it, or export to CSV"):
            esci.convert(tmp_path, tmp_path / "out")


class TestBeir:
    def test_its_files_become_a_folder(self, tmp_path: Path) -> None:
        lines(
            tmp_path / "corpus.jsonl",
            {"_id": "d1", "title": "On X", "text": "about x", "metadata": {"year": 2001, "id": "x"}},
            {"_id": "d2", "title": "", "text": "about y", "metadata": {}},
        )
        lines(
            tmp_path / "queries.jsonl", *({"_id": q, "text": f"text of {q}", "metadata": {}} for q in ("1", "2", "3"))
        )
        lines(tmp_path / "qrels" / "test.tsv", "query-id\tcorpus-id\tscore", "1\td1\t1")
        lines(tmp_path / "qrels" / "dev.tsv", "query-id\tcorpus-id\tscore", "2\td2\t2", "2\td1\t-2")
        assert counts(beir.convert(tmp_path, tmp_path / "out")) == (2, 2, 3, 0)
        dataset = Dataset.open(tmp_path / "out")
        assert list(dataset.documents()) == [
            {"id": "d1", "title": "On X", "text": "about x", "year": 2001},
            {"id": "d2", "text": "about y"},
        ]
        assert {q.query_id: q.split for q in dataset.queries()} == {"1": "test", "2": "validation"}
        assert dataset.judgments() == {"1": {"d1": 1.0}, "2": {"d2": 2.0, "d1": 0.0}}

    def test_a_folder_without_judgments_is_refused(self, tmp_path: Path) -> None:
        with pytest.raises(InvalidRequest, match=r"qrels/test\.tsv"):
            beir.convert(tmp_path, tmp_path / "out")

    def test_bad_lines_are_passed_over_and_told_by_number(self, tmp_path: Path) -> None:
        header = "query-id\tcorpus-id\tscore"
        lines(tmp_path / "qrels" / "test.tsv", header, "1\td1\t1", "1\td2\thigh", "9\td1\t1")
        lines(tmp_path / "corpus.jsonl", {"_id": "d1", "text": "x"}, "{", "[]", {"text": "no id"}, {"_id": "d2"})
        lines(tmp_path / "queries.jsonl", {"_id": "1", "text": "x"}, '{"_id": "2", "text": NaN}')
        summary = beir.convert(tmp_path, tmp_path / "out")
        assert counts(summary) == (2, 1, 1, 6)
        assert [(p.file, p.line) for p in summary.problems] == [
            *(("test.tsv", 3), ("queries.jsonl", 2)),
            *(("corpus.jsonl", line) for line in (2, 3, 4)),
            ("test.tsv", 4),
        ]

    def test_no_test_query_is_trained_on_and_some_are_held_out(self, tmp_path: Path) -> None:
        lines(tmp_path / "corpus.jsonl", {"_id": "d", "text": "x"})
        lines(tmp_path / "queries.jsonl", *({"_id": f"{n}", "text": f"text {n}"} for n in range(300)))
        header = "query-id\tcorpus-id\tscore"
        lines(tmp_path / "qrels" / "train.tsv", header, *(f"{n}\td\t1" for n in range(300)))
        lines(tmp_path / "qrels" / "test.tsv", header, *(f"{n}\td\t1" for n in range(50)))
        beir.convert(tmp_path, tmp_path / "out")
        splits = {q.query_id: q.split for q in Dataset.open(tmp_path / "out").queries()}
        assert {splits[f"{n}"] for n in range(50)} == {"test"}
        assert 10 <= Counter(splits.values())["validation"] <= 40
        lines(tmp_path / "qrels" / "dev.tsv", header, "299\td\t1")
        assert beir.convert(tmp_path, tmp_path / "with-dev").splits == {"test": 50, "train": 249, "validation": 1}


class TestMsrd:
    def test_its_tables_become_a_folder(self, tmp_path: Path) -> None:
        lines(
            tmp_path / "movies.csv",
            "id\ttitle\tgenres\tactors\tyear\tvotes\tbudget",
            "862\tToy Story\tAnimation,Comedy\tTom Hanks,Tim Allen\t1995\t16000\t",
            "10193\tToy Story 3\tAnimation\t\t2010\t13000\t200000000",
        )
        lines(
            tmp_path / "queries.csv",
            "query\tdoc_id\tlabel",
            "toy story\t862\t1",
            "toy story\t862\t1",
            "toy story\t862\t0",
            "toy story\t10193\t0",
            "woody\t862\t1",
            "woody\t862\tyes",
        )
        assert counts(msrd.convert(tmp_path, tmp_path / "out")) == (2, 2, 3, 1)
        dataset = Dataset.open(tmp_path / "out")
        assert next(dataset.documents()) == {
            "id": "862",
            "title": "Toy Story",
            "genres": ["Animation", "Comedy"],
            "actors": ["Tom Hanks", "Tim Allen"],
            "year": 1995,
            "votes": 16000,
        }
        assert dataset.judgments() == {"q0": {"862": 1.0, "10193": 0.0}, "q1": {"862": 1.0}}
        assert len({q.split for q in dataset.queries()}) == 1  # both look for the same film

    def test_the_vendors_copy_keeps_its_query_ids(self, tmp_path: Path) -> None:
        lines(tmp_path / "movies-corpus.jsonl", {"id": 862, "title": "Toy Story", "tags": ["pixar"], "url": ""})
        lines(tmp_path / "movies_judgments.csv", "query_id,query,doc_id,grade", "qid:5141,toy,862,1")
        msrd.convert(tmp_path, tmp_path / "out")
        dataset = Dataset.open(tmp_path / "out")
        assert list(dataset.documents()) == [{"id": "862", "title": "Toy Story", "tags": ["pixar"]}]
        assert dataset.judgments() == {"qid:5141": {"862": 1.0}}


class TestTrec:
    def test_qrels_are_read(self, tmp_path: Path) -> None:
        path = lines(tmp_path / "qrels", "301 0 d1 2", "301 0 d2 0", "302 0 d1 0.5")
        assert read_qrels(path) == {"301": {"d1": 2.0, "d2": 0.0}, "302": {"d1": 0.5}}

    def test_runs_are_written_and_read_by_score(self, tmp_path: Path) -> None:
        run = {"301": [("d1", 1.5), ("d2", 0.1 + 0.2)]}
        write_run(tmp_path / "run", run, "ltrr")
        assert read_run(tmp_path / "run") == run
        lines(tmp_path / "run", "1 Q0 b 1 0.5 x", "1\tQ0\tc\t2\t0.9\tx", "", "1 Q0 a 3 0.5 x")
        assert read_run(tmp_path / "run") == {"1": [("c", 0.9), ("a", 0.5), ("b", 0.5)]}

    def test_compressed_files_are_written_and_read_alike(self, tmp_path: Path) -> None:
        write_run(tmp_path / "run.gz", {"1": [("b", 0.5), ("a", 0.5), ("c", 2.0)]}, "x")
        assert gzip.decompress((tmp_path / "run.gz").read_bytes()).decode() == (
            "1 Q0 c 1 2.0 x\n1 Q0 a 2 0.5 x\n1 Q0 b 3 0.5 x\n"
        )
        assert read_run(tmp_path / "run.gz") == {"1": [("c", 2.0), ("a", 0.5), ("b", 0.5)]}
        (tmp_path / "qrels.gz").write_bytes(gzip.compress(b"1 0 a 1\n"))
        assert read_qrels(tmp_path / "qrels.gz") == {"1": {"a": 1.0}}

    def test_what_would_break_a_line_is_not_written(self, tmp_path: Path) -> None:
        with pytest.raises(InvalidRequest, match="'two words' holds white space"):
            write_run(tmp_path / "run", {"1": [("two words", 1.0)]}, "ltrr")
        with pytest.raises(InvalidRequest, match="holds white space or nothing"):
            write_run(tmp_path / "run", {"1": [("a", 1.0)]}, "")

    def test_a_line_of_another_kind_is_named(self, tmp_path: Path) -> None:
        with pytest.raises(InvalidRequest, match="line 2: 3 columns; 6 are wanted"):
            read_run(lines(tmp_path / "run", "301 Q0 é 1 2 x", "301 Q0 d1"))
        with pytest.raises(InvalidRequest, match="line 1: 'high' is not a number"):
            read_run(lines(tmp_path / "run", "301 Q0 d1 1 high x"))
        with pytest.raises(InvalidRequest, match="line 1: 'nan' is not a number"):
            read_run(lines(tmp_path / "run", "301 Q0 d1 1 nan x"))
        with pytest.raises(InvalidRequest, match="line 2: d1 is listed twice for 301"):
            read_run(lines(tmp_path / "run", "301 Q0 d1 1 2 x", "301 Q0 d1 2 1 x"))
        with pytest.raises(InvalidRequest, match="cannot be read"):
            read_run(tmp_path / "nowhere")


class TestCommand:
    def run(self, *arguments: str) -> None:
        parser = argparse.ArgumentParser()
        convert.register(parser.add_subparsers())
        asked = parser.parse_args(["convert", *arguments])
        asked.run(asked)

    def test_it_says_what_was_written_and_passed_over(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        lines(tmp_path / "movies.csv", "id\ttitle", "862\tToy Story", "oops")
        lines(tmp_path / "queries.csv", "query\tdoc_id\tlabel", "toy story\t862\t1")
        self.run("msrd", str(tmp_path), str(tmp_path / "out"))
        printed = capsys.readouterr().out
        assert "out: 1 items, 1 queries (1 validation), 1 judgements; 1 lines skipped\n" in printed
        assert "\n  movies.csv, line 3: 1 cells; the header has 2\n" in printed
        self.run("msrd", str(tmp_path), str(tmp_path / "again"), "--json")
        assert json.loads(capsys.readouterr().out)["problems"] == [
            {"file": "movies.csv", "line": 3, "detail": "1 cells; the header has 2"}
        ]

    def test_options_reach_their_form(self, tmp_path: Path) -> None:
        lines(tmp_path / "products.csv", "product_id,product_title,product_locale", "B1,a,us", "B1,b,jp")
        header = "query,query_id,product_id,product_locale,esci_label,large_version,split"
        lines(tmp_path / "examples.csv", header, "x,1,B1,us,E,1,test", "y,2,B1,jp,E,1,test")
        self.run("esci", str(tmp_path), str(tmp_path / "out"), "--locale", "jp", "--version", "large")
        assert [d["product_title"] for d in Dataset.open(tmp_path / "out").documents()] == ["b"]
        with pytest.raises(SystemExit):
            self.run("msrd", str(tmp_path), str(tmp_path / "out"), "--locale", "jp")
