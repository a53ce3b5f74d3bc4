"""`ltrr convert`: a data set folder from one of the public forms of judged search data."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import orjson

from services.datasets import beir, esci, msrd, wands
from services.datasets.convert import Summary

FORMS: dict[str, tuple[Callable[..., Summary], str]] = {
    "beir": (beir.convert, "corpus.jsonl, queries.jsonl and qrels/{train,dev,test}.tsv"),
    "esci": (esci.convert, "examples and products of the Shopping Queries Dataset: Parquet, CSV or JSON lines"),
    "msrd": (msrd.convert, "films and judged queries of the Movie Search Ranking Dataset"),
    "wands": (wands.convert, "product.csv, query.csv and label.csv of the Wayfair annotation data set"),
}
SHOWN_PROBLEMS = 20


def register(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = subparsers.add_parser("convert", help="make a data set folder from a public form", description=__doc__)
    forms = parser.add_subparsers(dest="form", required=True, metavar="FORM")
    for name, (_, files) in FORMS.items():
        form = forms.add_parser(name, help=files, description=f"A data set folder from {files}.")
        form.add_argument("source", type=Path, metavar="SOURCE", help="folder with the files as they were published")
        form.add_argument("target", type=Path, metavar="TARGET", help="data set folder to write; new or empty")
        form.add_argument("--json", action="store_true", help="print the summary as JSON")
        if name == "esci":
            form.add_argument("--locale", default="us", help="whose queries and products: us, es or jp (default: us)")
            form.add_argument("--version", choices=esci.VERSIONS, default="small", help="default: small")
        form.set_defaults(run=run)


def run(asked: argparse.Namespace) -> None:
    convert, _ = FORMS[asked.form]
    options: dict[str, Any] = {name: getattr(asked, name) for name in ("locale", "version") if hasattr(asked, name)}
    summary = convert(asked.source, asked.target, **options)
    print(orjson.dumps(asdict(summary)).decode() if asked.json else text(summary, asked.target))


def text(summary: Summary, target: Path) -> str:
    splits = ", ".join(f"{count} {split}" for split, count in summary.splits.items())
    lines = [
        f"{target}: {summary.items} items, {summary.queries} queries ({splits}), {summary.judgements} judgements; "
        f"{summary.skipped} lines passed over"
    ]
    lines += [f"  {problem}" for problem in summary.problems[:SHOWN_PROBLEMS]]
    if summary.skipped > SHOWN_PROBLEMS:
        lines.append(f"  and {summary.skipped - SHOWN_PROBLEMS} more")
    return "\n".join(lines)
