"""`ltrr convert`: make a data set folder from a common public format of judged search data."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import orjson

from services.datasets import beir, esci, msrd, wands
from services.datasets.convert import Summary

FORMATS: dict[str, tuple[Callable[..., Summary], str]] = {
    "beir": (beir.convert, "corpus.jsonl, queries.jsonl and qrels/{train,dev,test}.tsv"),
    "esci": (esci.convert, "examples and products of the Shopping Queries Dataset: Parquet, CSV or JSON lines"),
    "msrd": (msrd.convert, "films and judged queries of the Movie Search Ranking Dataset"),
    "wands": (wands.convert, "product.csv, query.csv and label.csv of the Wayfair annotation data set"),
}
MAX_PROBLEMS_SHOWN = 20


def register(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the command to the command line."""
    parser = subparsers.add_parser(
        "convert", help="convert a public data set to a data set folder", description=__doc__
    )
    forms = parser.add_subparsers(dest="form", required=True, metavar="FORM")
    for name, (_, files) in FORMATS.items():
        form = forms.add_parser(name, help=files, description=f"A data set folder from {files}.")
        form.add_argument("source", type=Path, metavar="SOURCE", help="folder with the files as they were published")
        form.add_argument("target", type=Path, metavar="TARGET", help="data set folder to write; new or empty")
        form.add_argument("--json", action="store_true", help="print the summary as JSON")
        if name == "esci":
            form.add_argument(
                "--locale", default="us", help="locale of queries and products: us, es or jp (default: us)"
            )
            form.add_argument("--version", choices=esci.VERSIONS, default="small", help="default: small")
        form.set_defaults(run=run)


def run(args: argparse.Namespace) -> None:
    """Convert the data set and print a summary. Raises InvalidRequest for unusable files."""
    convert, _ = FORMATS[args.form]
    options: dict[str, Any] = {name: getattr(args, name) for name in ("locale", "version") if hasattr(args, name)}
    summary = convert(args.source, args.target, **options)
    print(orjson.dumps(asdict(summary)).decode() if args.json else text(summary, args.target))


def text(summary: Summary, target: Path) -> str:
    """The summary as text, with the first problems."""
    splits = ", ".join(f"{count} {split}" for split, count in summary.splits.items())
    lines = [
        f"{target}: {summary.items} items, {summary.queries} queries ({splits}), {summary.judgements} judgements; "
        f"{summary.skipped} lines skipped"
    ]
    lines += [f"  {problem}" for problem in summary.problems[:MAX_PROBLEMS_SHOWN]]
    if summary.skipped > MAX_PROBLEMS_SHOWN:
        lines.append(f"  and {summary.skipped - MAX_PROBLEMS_SHOWN} more")
    return "\n".join(lines)
