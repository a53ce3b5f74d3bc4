"""ESCI (Shopping Queries Dataset, Reddy et al., arXiv 2206.06588): the examples and products tables, as published
(Parquet) or exported to CSV, TSV or JSON lines."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from services.datasets.convert import Conversion, Summary
from services.datasets.folder import DatasetQuery, Judgment, Position
from services.datasets.splits import TEST, part_of_train
from services.datasets.tables import find, number, present
from services.types import Document

GRADES = {"e": 3.0, "exact": 3.0, "s": 2.0, "substitute": 2.0, "c": 1.0, "complement": 1.0, "i": 0.0, "irrelevant": 0.0}
"""Chosen here: steps of one, so that 2^grade - 1 gives 7, 3, 1, 0. (The paper weighs the labels 1, 0.1, 0.01, 0.)"""
VERSIONS = ("small", "large")
_EXAMPLE_COLUMNS = {
    name: (name,) for name in ("query", "query_id", "product_id", "product_locale", "esci_label", "split")
}
_PRODUCT_COLUMNS = {name: (name,) for name in ("product_id", "product_title", "product_locale")}
_PRODUCT_FIELDS = ("product_title", "product_description", "product_bullet_point", "product_brand", "product_color")


def convert(source: Path, target: Path, locale: str = "us", version: str = "small") -> Summary:
    """Write the data set folder `target` from the tables in `source`, for one locale (a product id means another
    product in another locale) and one version: `small` leaves out the easy queries and is the one of the ranking task.

    Products that this version judges for no query are left out. A tenth of the training queries becomes validation.
    Raises InvalidRequest, also for Parquet when pyarrow is not installed.
    """
    conversion = Conversion(target)
    examples = find(source, "shopping_queries_dataset_examples", "examples")
    products = find(source, "shopping_queries_dataset_products", "products")
    flag = f"{version}_version"
    queries: dict[str, DatasetQuery] = {}
    judged: list[tuple[Position, Judgment]] = []
    for position, row in conversion.rows(examples, {**_EXAMPLE_COLUMNS, flag: (flag,)}):
        if row["product_locale"] != locale or not _is_set(row[flag]):
            continue
        grade = GRADES.get(str(row["esci_label"]).casefold())
        if grade is None:
            conversion.skip(position, f"label {row['esci_label']!r} is none of E, S, C, I")
            continue
        query_id = str(row["query_id"])
        if query_id not in queries:
            queries[query_id] = DatasetQuery(query_id, _split(query_id, row["split"]), str(row["query"]))
        judged.append((position, Judgment(query_id, str(row["product_id"]), grade)))
    wanted = {judgement.object_id for _, judgement in judged}

    def items() -> Iterator[tuple[Position, Document]]:
        for position, row in conversion.rows(products, _PRODUCT_COLUMNS):
            if row["product_locale"] == locale and str(row["product_id"]) in wanted:
                yield (
                    position,
                    present({"id": str(row["product_id"]), **{name: row.get(name) for name in _PRODUCT_FIELDS}}),
                )

    return conversion.write(items(), list(queries.values()), judged)


def _is_set(flag: Any) -> bool:
    """Whether a flag is set: exports write 1, 1.0 or True."""
    return str(flag).casefold() == "true" or number(flag) == 1


def _split(query_id: str, published: Any) -> str:
    return TEST if published == "test" else part_of_train(query_id)
