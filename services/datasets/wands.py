"""WANDS (Wayfair annotation data set, Chen et al., ECIR 2022): product.csv, query.csv, label.csv, tab separated."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from services.datasets.folder import Judgment, write_folder
from services.datasets.splits import split
from services.datasets.tables import find, number, present, rows

GRADES = {"exact": 2.0, "partial": 1.0, "irrelevant": 0.0}


def convert(source: Path, target: Path) -> dict[str, int]:
    """Write the data set folder `target` from the files in `source`; rows written by file. Raises InvalidRequest."""
    asked = {"query_id": ("query_id",), "query": ("query",)}
    queries = {str(row["query_id"]): str(row["query"]) for row in rows(find(source, "query", "queries"), asked)}
    judgments: dict[str, dict[str, float]] = {}
    labelled = {"query_id": ("query_id",), "product_id": ("product_id",), "label": ("label",)}
    for row in rows(find(source, "label", "labels"), labelled):
        grade = GRADES.get(str(row["label"]).strip().casefold())
        if grade is not None:
            judgments.setdefault(str(row["query_id"]), {})[str(row["product_id"])] = grade
    named = {"product_id": ("product_id",), "product_name": ("product_name",)}
    return write_folder(
        target,
        (_product(row) for row in rows(find(source, "product", "products"), named)),
        split(queries, judgments),
        (Judgment(q, d, grade) for q, judged in judgments.items() for d, grade in judged.items()),
    )


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
