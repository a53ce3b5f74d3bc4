"""`ltrr demo`: a catalogue to play with, indexed once and served with learner and pages."""

from __future__ import annotations

import argparse
import asyncio
from pathlib import Path

from services.sample.generate import generate

from app.cli.index import index, text
from app.cli.serve import serve
from app.settings import Settings
from services.datasets.folder import Dataset
from services.errors import SettingsInvalid

READY = "indexed"


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
    # Each catalogue has a folder of its own: trying another one must not mix them.
    name = "music" if asked.data is None else asked.data.resolve().name
    settings = settings.model_copy(update={"data_dir": settings.data_dir / f"demo-{name}"})
    ready = settings.data_dir / READY
    if not ready.exists():
        source = asked.data
        if source is None:
            source = settings.data_dir / "sample"
            print("generating the sample catalogue", flush=True)
            generate(source)
        schema = Dataset.open(source).schema
        print(f"indexing {source}", flush=True)
        print(text(asyncio.run(index(settings, source, schema, rebuild=True, train=True))), flush=True)
        ready.touch()
    print(f"search http://{settings.host}:{settings.port}/   console /console   API /docs   (Ctrl-C stops)", flush=True)
    serve(settings)
