"""WANDS (Wayfair annotation data set, Chen et al., ECIR 2022): product.csv, query.csv, label.csv, tab separated."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from services.datasets.convert import Conversion, Summary
from services.datasets.folder import Judgment, Position
from services.datasets.splits import split
from services.datasets.tables import find, number, present

GRADES = {"exact": 2.0, "partial": 1.0, "irrelevant": 0.0}


def convert(source: Path, target: Path) -> Summary:
    """Write the data set folder `target` from the files in `source`. Raises InvalidRequest."""
    conversion = Conversion(target)
    query_rows = conversion.rows(find(source, "query", "queries"), {"query_id": ("query_id",), "query": ("query",)})
    queries = {str(row["query_id"]): str(row["query"]) for _, row in query_rows}
    judged: list[tuple[Position, Judgment]] = []
    grades: dict[str, dict[str, float]] = {}
    label_columns = {"query_id": ("query_id",), "product_id": ("product_id",), "label": ("label",)}
    for position, row in conversion.rows(find(source, "label", "labels"), label_columns):
        grade = GRADES.get(str(row["label"]).strip().casefold())
        if grade is None:
            conversion.skip(position, f"label {row['label']!r} is none of {', '.join(GRADES)}")
            continue
        judgement = Judgment(str(row["query_id"]), str(row["product_id"]), grade)
        judged.append((position, judgement))
        grades.setdefault(judgement.query_id, {})[judgement.object_id] = grade
    product_columns = {"product_id": ("product_id",), "product_name": ("product_name",)}
    products = conversion.rows(find(source, "product", "products"), product_columns)
    return conversion.write(((position, _product(row)) for position, row in products), split(queries, grades), judged)


def _product(row: dict[str, Any]) -> dict[str, Any]:
    hierarchy = str(row.get("category_hierarchy") or row.get("category hierarchy") or "")
    features = (feature.split(":", 1) for feature in str(row.get("product_features") or "").split("|"))
    return present(
        {
            "id": str(row["product_id"]),
            "product_name": row["product_name"],
            "product_class": [c.strip() for c in str(row.get("product_class") or "").split("|") if c.strip()],
            "categories": [c.strip() for c in hierarchy.split("/") if c.strip()],
            "product_description": row.get("product_description"),
            "features": list(dict.fromkeys(": ".join(part.strip() for part in f) for f in features if "".join(f))),
            "average_rating": number(row.get("average_rating")),
            "rating_count": number(row.get("rating_count")),
            "review_count": number(row.get("review_count")),
        }
    )
