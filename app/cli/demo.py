"""`ltrr demo`: a catalogue to play with, indexed once and served with learner and pages."""

from __future__ import annotations

import argparse
import asyncio
import hashlib
from pathlib import Path

from app.cli.index import index, text
from app.process.gateway import address, serve
from app.settings import Settings
from services.datasets.folder import Dataset, state
from services.datasets.sample.generate import generate
from services.errors import SettingsInvalid

READY = "indexed"
"""File that says which state of the source is indexed."""


def register(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = subparsers.add_parser(
        "demo", help="index the sample catalogue or a folder, and serve it", description=__doc__
    )
    parser.add_argument(
        "--data", type=Path, metavar="DIR", help="data set folder (default: a generated music catalogue)"
    )
    parser.set_defaults(run=run)


def run(asked: argparse.Namespace) -> None:
    settings = Settings.load()
    if asked.data is not None and not asked.data.exists():
        raise SettingsInvalid(f"demo: no such folder {asked.data}")
    settings = settings.model_copy(update={"data_dir": settings.data_dir / _name(asked.data)})
    source = asked.data or settings.data_dir / "sample"
    ready = settings.data_dir / READY
    if asked.data is None and not ready.exists():
        print("generating the sample catalogue", flush=True)
        generate(source)
    now = state(source)
    if not ready.exists() or ready.read_text() != now:
        schema = Dataset.open(source).schema
        print(f"indexing {source}", flush=True)
        print(text(asyncio.run(index(settings, source, schema, rebuild=True, train=True))), flush=True)
        ready.write_text(now)
    print(f"search {address(settings)}/   console /console   API /docs   (Ctrl-C stops)", flush=True)
    serve(settings)


def _name(data: Path | None) -> str:
    """Each catalogue has a folder of its own, so that trying another one does not mix them."""
    if data is None:
        return "demo"
    path = data.resolve()
    return f"demo-{path.name}-{hashlib.sha256(bytes(path)).hexdigest()[:8]}"
