"""The REST calls of a Qdrant server that the product uses, over shards of the same engine, embedded.

Requests are done one after the other on one event loop, each in a few milliseconds. It keeps nothing of a cluster,
quantizes nothing and builds no graph: what it finds is exact. A request that it does not know in full is refused, so
that nothing is ignored that a real server would obey.
"""

from __future__ import annotations

import asyncio
import json
import shutil
from pathlib import Path
from typing import Any

import orjson
import qdrant_edge as engine
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

VERSION = "1.17.1"
INDEXED_POINTS = 1000
"""Number of points from which payload indexes are created: each is slow to build, and not needed for fewer points."""
KINDS = {"keyword": engine.PayloadSchemaType.Keyword, "float": engine.PayloadSchemaType.Float}


class Answer(Exception):
    """A request is refused."""

    def __init__(self, status: int, text: str) -> None:
        super().__init__(text)
        self.status = status


def wrong(text: str) -> Answer:
    return Answer(400, f"Wrong input: {text}")


class Collection:
    """One shard in a folder; `config.json` is written last, so that a folder without it is none. What the shard was
    told is in its log when it returns, and so survives the process."""

    def __init__(self, folder: Path, config: dict[str, Any]) -> None:
        self.folder = folder
        self.config = config
        place = folder / "shard"
        if place.exists():
            self.shard = engine.EdgeShard.load(str(place))
            self.indexed = bool(self.shard.info().payload_schema)
            return
        place.mkdir(parents=True)
        vectors = {
            name: engine.EdgeVectorParams(size=params["size"], distance=getattr(engine.Distance, params["distance"]))
            for name, params in config["vectors"].items()
        }
        settings = engine.EdgeConfig(vectors=vectors, max_search_threads=1)
        self.shard = engine.EdgeShard.create(str(place), settings)
        self.indexed = False
        self.write_config()

    def write_config(self) -> None:
        replace(self.folder / "config.json", self.config)

    def upsert(self, points: list[Any]) -> None:
        self.shard.update(engine.UpdateOperation.upsert_points(points))
        if not self.indexed and self.shard.info().points_count >= INDEXED_POINTS:
            for key, kind in self.config["payload_schema"].items():
                self.shard.update(engine.UpdateOperation.create_field_index(key, KINDS[kind]))
            self.indexed = True

    def drop(self) -> None:
        (self.folder / "config.json").unlink()
        self.shard.close()
        asyncio.get_running_loop().run_in_executor(None, shutil.rmtree, self.folder)


class Server:
    def __init__(self, data: Path, version: str = VERSION, api_key: str | None = None) -> None:
        self.data = data
        self.version = version
        self.api_key = api_key
        self.collections: dict[str, Collection] = {}
        self.aliases: dict[str, str] = {}
        data.mkdir(parents=True, exist_ok=True)
        for folder in sorted(data.iterdir()):
            if (folder / "config.json").exists():
                config = json.loads((folder / "config.json").read_text())
                self.collections[folder.name] = Collection(folder, config)
            elif folder.is_dir():
                shutil.rmtree(folder)
        if (data / "aliases.json").exists():
            self.aliases = json.loads((data / "aliases.json").read_text())

    def find(self, request: Request) -> Collection:
        name = request.path_params["name"]
        found = self.collections.get(self.aliases.get(name, name))
        if found is None:
            raise Answer(404, f"Not found: Collection `{name}` doesn't exist!")
        return found

    # --- service --------------------------------------------------------------------------------------------------

    async def about(self, request: Request) -> Any:
        return {"title": "qdrant - vector search engine", "version": self.version, "commit": "0" * 40}

    # --- collections ----------------------------------------------------------------------------------------------

    async def list_collections(self, request: Request) -> Any:
        return {"collections": [{"name": name} for name in self.collections]}

    async def create_collection(self, request: Request) -> Any:
        body = await fields(
            request, "vectors", "hnsw_config", "optimizers_config", "quantization_config", "shard_number"
        )
        name = request.path_params["name"]
        if name in self.collections or name in self.aliases:
            raise Answer(409, f"Wrong input: Collection `{name}` already exists!")
        config = {
            "vectors": body["vectors"],
            "quantization_config": body.get("quantization_config"),
            "hnsw_config": body.get("hnsw_config") or {},
            "optimizers_config": body.get("optimizers_config") or {},
            "payload_schema": {},
        }
        self.collections[name] = Collection(self.data / name, config)
        return True

    async def get_collection(self, request: Request) -> Any:
        found = self.find(request)
        count = found.shard.info().points_count
        hnsw = {"m": 16, "ef_construct": 100, "full_scan_threshold": 10_000} | found.config["hnsw_config"]
        optimizer = {"deleted_threshold": 0.2, "vacuum_min_vector_number": 1000, "default_segment_number": 0}
        return {
            "status": "green",
            "optimizer_status": "ok",
            "points_count": count,
            "indexed_vectors_count": 0,
            "segments_count": 1,
            "config": {
                "params": {"vectors": found.config["vectors"], "shard_number": 1, "replication_factor": 1},
                "hnsw_config": hnsw,
                "optimizer_config": optimizer | {"flush_interval_sec": 5} | found.config["optimizers_config"],
                "wal_config": {"wal_capacity_mb": 32, "wal_segments_ahead": 0},
                "quantization_config": found.config["quantization_config"],
            },
            "payload_schema": {
                key: {"data_type": kind, "points": count} for key, kind in found.config["payload_schema"].items()
            },
        }

    async def delete_collection(self, request: Request) -> Any:
        found = self.collections.pop(request.path_params["name"], None)
        if found is None:
            return False
        self.set_aliases({alias: name for alias, name in self.aliases.items() if name != found.folder.name})
        found.drop()
        return True

    async def index_field(self, request: Request) -> Any:
        body = await fields(request, "field_name", "field_schema")
        found = self.find(request)
        if body["field_schema"] not in KINDS:
            raise wrong("field_schema")
        if found.shard.info().points_count:
            raise wrong("the stand-in makes indexes of empty collections alone")
        found.config["payload_schema"][body["field_name"]] = body["field_schema"]
        found.write_config()
        return done()

    # --- aliases --------------------------------------------------------------------------------------------------

    async def list_aliases(self, request: Request) -> Any:
        return {"aliases": [{"alias_name": alias, "collection_name": name} for alias, name in self.aliases.items()]}

    async def change_aliases(self, request: Request) -> Any:
        """All or nothing."""
        changed = dict(self.aliases)
        for action in (await fields(request, "actions"))["actions"]:
            ((what, given),) = action.items()
            if what == "delete_alias":
                if changed.pop(given["alias_name"], None) is None:
                    raise Answer(404, "Not found: alias")
            elif what == "create_alias":
                if given["collection_name"] not in self.collections:
                    raise Answer(404, "Not found: collection")
                if given["alias_name"] in self.collections or given["alias_name"] in changed:
                    raise Answer(409, "Wrong input: alias or collection exists")
                changed[given["alias_name"]] = given["collection_name"]
            else:
                raise wrong(what)
        self.set_aliases(changed)
        return True

    def set_aliases(self, changed: dict[str, str]) -> None:
        replace(self.data / "aliases.json", changed)
        self.aliases = changed

    # --- points ---------------------------------------------------------------------------------------------------

    async def upsert(self, request: Request) -> Any:
        batch = (await fields(request, "batch"))["batch"]
        found = self.find(request)
        points = [
            engine.Point(point, {name: rows[place] for name, rows in batch["vectors"].items()}, payload)
            for place, (point, payload) in enumerate(zip(batch["ids"], batch["payloads"], strict=True))
        ]
        guarded(lambda: found.upsert(points))
        return done()

    async def delete(self, request: Request) -> Any:
        points = (await fields(request, "points"))["points"]
        found = self.find(request)
        guarded(lambda: found.shard.update(engine.UpdateOperation.delete_points(points)))
        return done()

    async def retrieve(self, request: Request) -> Any:
        body = await fields(request, "ids", "with_payload", "with_vector")
        found = self.find(request)
        records = guarded(
            lambda: found.shard.retrieve(
                body["ids"], with_payload=body.get("with_payload"), with_vector=body.get("with_vector")
            )
        )
        return [{"id": str(record.id), "payload": record.payload, "vector": record.vector} for record in records]

    async def query(self, request: Request) -> Any:
        body = await fields(
            request, "query", "using", "filter", "params", "limit", "with_payload", "with_vector", "offset"
        )
        found = self.find(request)
        if body.get("offset") or body.get("with_vector"):
            raise wrong("offset, with_vector")
        asked = engine.SearchRequest(
            engine.Query.Nearest(nearest_of(body["query"]), using=body["using"]),
            limit=body["limit"],
            filter=filter_of(body["filter"]) if body.get("filter") else None,
            params=params_of(body.get("params") or {}),
            with_payload=body["with_payload"],
        )
        points = guarded(lambda: found.shard.search(asked))
        return {
            "points": [
                {"id": str(point.id), "version": point.version, "score": point.score, "payload": point.payload}
                for point in points
            ]
        }

    async def count(self, request: Request) -> Any:
        await fields(request, "exact")
        return {"count": self.find(request).shard.info().points_count}

    def application(self) -> Starlette:
        def route(method: str, path: str, answer: Any, bare: bool = False) -> Route:
            async def endpoint(request: Request) -> Response:
                if self.api_key is not None and request.headers.get("api-key") != self.api_key:
                    return JSONResponse({"status": {"error": "Invalid API key or JWT"}, "time": 0.0}, 403)
                try:
                    result = await answer(request)
                except Answer as refused:
                    body: Any = {"status": {"error": str(refused)}, "time": 0.0}
                    return Response(orjson.dumps(body), refused.status, media_type="application/json")
                body = result if bare else {"result": result, "status": "ok", "time": 0.0}
                return Response(orjson.dumps(body), media_type="application/json")

            return Route(path, endpoint, methods=[method])

        async def well(request: Request) -> Response:
            return Response("healthz check passed", media_type="text/plain")

        one = "/collections/{name}"
        return Starlette(
            routes=[
                route("GET", "/", self.about, bare=True),
                *(Route(path, well) for path in ("/healthz", "/livez", "/readyz")),
                route("GET", "/collections", self.list_collections),
                route("GET", "/aliases", self.list_aliases),
                route("POST", "/collections/aliases", self.change_aliases),
                route("PUT", one, self.create_collection),
                route("GET", one, self.get_collection),
                route("DELETE", one, self.delete_collection),
                route("PUT", one + "/index", self.index_field),
                route("PUT", one + "/points", self.upsert),
                route("POST", one + "/points", self.retrieve),
                route("POST", one + "/points/delete", self.delete),
                route("POST", one + "/points/query", self.query),
                route("POST", one + "/points/count", self.count),
            ]
        )

    def close(self) -> None:
        for collection in self.collections.values():
            collection.shard.close()


async def fields(request: Request, *known: str) -> dict[str, Any]:
    body = orjson.loads(await request.body())
    unknown = [name for name, value in body.items() if name not in known and value is not None]
    if unknown:
        raise wrong(f"unknown {unknown}")
    return {name: value for name, value in body.items() if value is not None}


def done() -> dict[str, Any]:
    return {"operation_id": 1, "status": "completed"}


def guarded(work: Any) -> Any:
    """The engine's complaints about a request; it has no class for them."""
    try:
        return work()
    except Exception as error:
        raise wrong(str(error)) from error


def nearest_of(body: Any) -> list[float]:
    vector = body.get("nearest") if isinstance(body, dict) and len(body) == 1 else body
    if not isinstance(vector, list):
        raise wrong("query")
    return [float(number) for number in vector]


def filter_of(body: dict[str, Any]) -> Any:
    if set(body) - {"must", "should"}:
        raise wrong("filter")
    parts: dict[str, Any] = {how: [condition_of(each) for each in body[how]] for how in body if body[how]}
    return engine.Filter(**parts)


def condition_of(body: dict[str, Any]) -> Any:
    given = {name: value for name, value in body.items() if value is not None}
    if not given.keys() <= {"key", "match", "range"}:
        return filter_of(given)
    if "match" in given:
        return engine.FieldCondition(given["key"], match=engine.MatchAny(given["match"]["any"]))
    bounds = {name: bound for name, bound in given["range"].items() if bound is not None}
    return engine.FieldCondition(given["key"], range=engine.RangeFloat(**bounds))


def params_of(body: dict[str, Any]) -> Any:
    given = {name: value for name, value in body.items() if value is not None}
    quantization = {name: value for name, value in given.pop("quantization", {}).items() if value is not None}
    if set(given) - {"exact", "hnsw_ef", "indexed_only"}:
        raise wrong("params")
    return engine.SearchParams(**given, quantization=engine.QuantizationSearchParams(**quantization))


def replace(path: Path, value: Any) -> None:
    new = path.with_suffix(".new")
    new.write_text(json.dumps(value))
    new.replace(path)
