"""Records the library calls of searches with their arguments, so that they can be replayed in isolation."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, NamedTuple
from unittest.mock import patch

import qdrant_edge
import vowpal_wabbit_next as vw

from load_tests.figures import ENCODER, ONNX, QDRANT, TANTIVY, VW
from services.backends.tantivy import index as lexical
from services.backends.tantivy.reading import Reading
from services.models.text_encoder import model as encoders
from services.onnx_session import onnxruntime


class Call(NamedTuple):
    """A recorded library call."""

    part: str
    function: Callable[..., Any]
    positional: tuple[Any, ...]
    named: dict[str, Any]


class Statement(NamedTuple):
    """A recorded SQL statement."""

    file: str
    sql: str
    values: Any


class Recorder:
    """Records library calls and SQL statements while `active`."""

    def __init__(self) -> None:
        self.active = False
        self.calls: list[Call] = []
        self.statements: list[Statement] = []

    def wrapped(self, part: str, function: Callable[..., Any]) -> Callable[..., Any]:
        """The function, with its calls recorded."""

        def recorded(*positional: Any, **named: Any) -> Any:
            if self.active:
                self.calls.append(Call(part, function, positional, named))
            return function(*positional, **named)

        return recorded

    def of_object(self, part: str, target: Any) -> Any:
        """A proxy of `target` with recorded methods, for engine classes that cannot be patched."""
        recorder = self

        class Recorded:
            def __getattr__(self, name: str) -> Any:
                found = getattr(target, name)
                return recorder.wrapped(part, found) if callable(found) else found

        return Recorded()

    @contextmanager
    def installed(self) -> Iterator[None]:
        """Patch the libraries. Must be entered before anything is opened: objects are wrapped when they are opened."""
        recorder, connect, shard, reading = self, sqlite3.connect, qdrant_edge.EdgeShard, Reading

        class Shards:
            load = staticmethod(lambda path: recorder.of_object(QDRANT, shard.load(path)))
            create = staticmethod(lambda path, config: recorder.of_object(QDRANT, shard.create(path, config)))

        class Connection(sqlite3.Connection):
            file = ""

            def execute(self, sql: str, values: Any = ()) -> sqlite3.Cursor:
                if recorder.active:
                    recorder.statements.append(Statement(self.file, sql, values))
                return super().execute(sql, values)

        def connected(path: Path, **options: Any) -> Connection:
            connection: Connection = connect(path, factory=Connection, **options)
            connection.file = path.name
            return connection

        def read(searcher: Any, *rest: Any) -> Any:
            return reading(recorder.of_object(TANTIVY, searcher) if recorder.active else searcher, *rest)

        with ExitStack() as patches:
            for owner, name, part in (
                (vw.Workspace, "predict_one", VW),
                (vw.TextFormatParser, "parse_line", VW),
                (onnxruntime.InferenceSession, "run", ONNX),
                (encoders.LsaEncoder, "encode_query", ENCODER),
                (encoders.HashingEncoder, "encode_query", ENCODER),
            ):
                patches.enter_context(patch.object(owner, name, self.wrapped(part, getattr(owner, name))))
            for owner, name, stand_in in (
                (qdrant_edge, "EdgeShard", Shards),
                (sqlite3, "connect", connected),
                (lexical, "Reading", read),
            ):
                patches.enter_context(patch.object(owner, name, stand_in))
            yield
