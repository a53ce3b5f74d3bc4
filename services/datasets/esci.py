"""ESCI (Shopping Queries Dataset, Reddy et al., arXiv 2206.06588): the examples and products tables, as published
(Parquet) or exported to CSV, TSV or JSON lines."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any
from zlib import crc32

from services.datasets.folder import DatasetQuery, Judgment, write_folder
from services.datasets.tables import find, present, rows

GRADES = {"e": 3.0, "exact": 3.0, "s": 2.0, "substitute": 2.0, "c": 1.0, "complement": 1.0, "i": 0.0, "irrelevant": 0.0}
_EXAMPLE = {name: (name,) for name in ("query", "query_id", "product_id", "product_locale", "esci_label")}
_PRODUCT = {name: (name,) for name in ("product_id", "product_title", "product_locale")}
_FIELDS = ("product_title", "product_description", "product_bullet_point", "product_brand", "product_color")


def convert(source: Path, target: Path, locale: str = "us") -> dict[str, int]:
    """Write the data set folder `target` from the tables in `source`, for one locale (a product id means another
    product in another locale); rows written by file. A tenth of the training queries becomes validation. Raises
    InvalidRequest, also for Parquet when pyarrow is not installed."""
    examples = find(source, "shopping_queries_dataset_examples", "examples")
    products = find(source, "shopping_queries_dataset_products", "products")
    queries = {}
    for row in _of(examples, _EXAMPLE, locale):
        query_id = str(row["query_id"])
        if query_id not in queries:
            queries[query_id] = DatasetQuery(query_id, _split(query_id, row.get("split")), str(row["query"]))
    return write_folder(
        target,
        (_product(row) for row in _of(products, _PRODUCT, locale)),
        queries.values(),
        _judgments(examples, locale),
    )


def _of(path: Path, columns: Mapping[str, Sequence[str]], locale: str) -> Iterator[dict[str, Any]]:
    return (row for row in rows(path, columns) if row["product_locale"] == locale)


def _judgments(examples: Path, locale: str) -> Iterator[Judgment]:
    for row in _of(examples, _EXAMPLE, locale):
        grade = GRADES.get(str(row["esci_label"]).casefold())
        if grade is not None:
            yield Judgment(str(row["query_id"]), str(row["product_id"]), grade)


def _split(query_id: str, published: Any) -> str:
    if published == "test":
        return "test"
    return "validation" if crc32(query_id.encode()) % 10 == 0 else "train"


def _product(row: dict[str, Any]) -> dict[str, Any]:
    return present({"id": str(row["product_id"]), **{name: row.get(name) for name in _FIELDS}})
