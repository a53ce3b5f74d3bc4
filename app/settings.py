"""Every setting: its default, its one-line help, and where it may come from.

Precedence: defaults < TOML file (LTRR_CONFIG, or ./ltrr.toml when it exists) < LTRR_* environment < keyword (tests).
An unknown LTRR_* name or TOML key stops the start with the nearest right name.
"""

from __future__ import annotations

import difflib
import ipaddress
import os
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal
from urllib.parse import urlsplit

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    SecretStr,
    ValidationError,
    field_validator,
    model_validator,
)

from services.errors import SettingsInvalid

PREFIX = "LTRR_"
_NOT_SETTINGS = {"LTRR_CONFIG"}
_SCHEMES = {"opensearch_url": ("http", "https"), "qdrant_url": ("http", "https"), "redis_url": ("redis", "rediss")}
"""Settings that name an engine, and what their addresses begin with."""


def _items(value: Any) -> Any:
    """`a,b` from the environment is the list ["a", "b"]; TOML gives lists as such."""
    return [part.strip() for part in value.split(",") if part.strip()] if isinstance(value, str) else value


def _table(value: Any) -> Any:
    """`click=1,purchase=5` from the environment is a table; TOML gives tables as such."""
    if not isinstance(value, str):
        return value
    return dict(pair.split("=", 1) if "=" in pair else (pair, None) for pair in _items(value))


Names = Annotated[list[str], BeforeValidator(_items)]
Weights = Annotated[dict[str, float], BeforeValidator(_table)]

ACTION_WEIGHTS = {
    "click": 1.0,
    "add_to_cart": 3.0,
    "purchase": 5.0,
    "play": 2.0,
    "like": 2.0,
    "dislike": -1.0,
    "dwell": 1.0,
    "abandon": 0.0,
}


class Settings(BaseModel):
    """Values of one process; frozen, passed down by value from app/ alone."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False, hide_input_in_errors=True)

    host: str = Field("127.0.0.1", description="address to listen on")
    port: int = Field(8000, ge=1, le=65535, description="port to listen on")
    data_dir: Path = Field(Path("var"), description="folder of everything an embedded service keeps")
    admin_key: SecretStr | None = Field(
        None, description="key for item writes, models, policy, explain, users, metrics"
    )
    signing_keys: SecretStr | None = Field(
        None,
        description="kid:secret,… for query ids; the first signs, all verify (default: generated in the data folder)",
    )
    allowed_hosts: Names = Field([], description="further Host names to answer to when no admin key is set")
    cors_origins: Names = Field([], description="origins that browsers may call from; none by default")
    opensearch_url: SecretStr | None = Field(
        None, description="OpenSearch for words and structure, http(s)://[user:password@]host:port (default: embedded)"
    )
    opensearch_ca: Path | None = Field(None, description="CA certificate (PEM) of OpenSearch, if not a public one")
    qdrant_url: SecretStr | None = Field(
        None, description="Qdrant for vectors, http(s)://host[:6333] (default: embedded)"
    )
    qdrant_api_key: SecretStr | None = Field(None, description="API key of Qdrant")
    qdrant_quantization: Literal["none", "scalar", "binary"] = Field(
        "none", description="vectors kept in memory: none | scalar | binary"
    )
    redis_url: SecretStr | None = Field(
        None,
        description="Redis for items, event log, memory, models and switches, redis(s)://[user:password@]host:port/db"
        " (default: embedded)",
    )
    namespace: str = Field(
        "ltrr",
        pattern="^[a-z][a-z0-9-]{0,31}$",
        description="first part of every key, index and collection on shared engines",
    )
    workers: int = Field(1, ge=1, le=64, description="gateway processes of `ltrr serve` (all engines must be shared)")
    drain_seconds: float = Field(
        0.0, ge=0.0, le=120.0, description="how long to go on serving, not ready, after SIGTERM (behind a balancer: 5)"
    )
    learner_port: int = Field(9464, ge=1, le=65535, description="port of /metrics and probes of `ltrr learn`")
    retention_days: float = Field(30.0, gt=0.0, description="how long the event log is kept once it is learned from")
    log_format: str = Field("text", pattern="^(text|json)$", description="log lines: text | json")
    log_level: str = Field("info", pattern="^(debug|info|warning|error)$", description="debug | info | warning | error")
    log_queries: bool = Field(False, description="whether query texts may stand in request logs and traces")
    otlp_endpoint: str | None = Field(
        None, description="OpenTelemetry collector that traces go to, http(s)://host:4318 (default: no tracing)"
    )
    trace_ratio: float = Field(
        1.0, ge=0.0, le=1.0, description="share of traces recorded where the caller did not decide"
    )
    ubi: bool = Field(
        False,
        description="mirror answers and events, query texts and user ids among them, into ubi_queries and ubi_events"
        " of OpenSearch",
    )
    encoder: Path | None = Field(
        None, description="folder of an ONNX sentence encoder (default: trained on the catalogue)"
    )
    policy: str = Field("vw", pattern="^(vw|fixed|uniform)$", description="vw | fixed | uniform")
    exploration: float = Field(0.05, ge=0.0, le=0.5, description="permanent share of decisions that explore")
    survey_share: float = Field(
        0.5, ge=0.0, le=1.0, description="most answers that are surveyed for the policy; it asks for ever fewer"
    )
    candidate_budget: int = Field(200, ge=10, le=1000, description="most candidates a request may take over all arms")
    candidate_price: float = Field(
        0.0002,
        ge=0.0,
        description="share of a page of wanted items, and reward, that one candidate must be worth",
    )
    query_ttl_seconds: int = Field(21600, ge=1, le=86400, description="how long an answer takes feedback and pages")
    attribution_seconds: float = Field(1800.0, gt=0.0, description="reward window of an answer")
    action_weights: Weights = Field(ACTION_WEIGHTS, description="reward weight per action_name")
    principal_cap: int = Field(30, ge=1, description="events an hour of one principal that count in full")
    memory_half_life_days: float = Field(30.0, gt=0.0, description="decay of click memory")
    memory_neighbours: int = Field(
        16, ge=0, le=64, description="neighbouring queries that click memory reads; 0: the same words alone"
    )
    max_body_bytes: int = Field(
        2_000_000, ge=1024, description="largest request body (item writes stream and may be larger)"
    )
    max_concurrency: int = Field(64, ge=1, description="searches in flight before further ones are shed with 503")
    snapshot_seconds: float = Field(5.0, gt=0.0, description="how often a changed policy is published")

    @field_validator("action_weights")
    @classmethod
    def _all_actions(cls, given: dict[str, float]) -> dict[str, float]:
        """Actions that are not named keep their default weight."""
        return {**ACTION_WEIGHTS, **given}

    @model_validator(mode="after")
    def _consistent(self) -> Settings:
        unknown = sorted(set(self.action_weights) - set(ACTION_WEIGHTS))
        if unknown:
            raise ValueError(f"action_weights: unknown action {unknown[0]!r}; known are {', '.join(ACTION_WEIGHTS)}")
        key = self.admin_key.get_secret_value() if self.admin_key else "none"
        if not (key.isascii() and key.isprintable()) or " " in key:
            raise ValueError("admin_key: use printable ASCII characters without spaces, as headers carry them")
        if self.admin_key is None and not _loopback(self.host):
            raise ValueError(f"host: {self.host} is not a loopback address; set LTRR_ADMIN_KEY, or listen on 127.0.0.1")
        return self

    @model_validator(mode="after")
    def _engines(self) -> Settings:
        for name, schemes in _SCHEMES.items():
            url = getattr(self, name)
            if url is None:
                continue
            try:
                parts = urlsplit(url.get_secret_value())
                valid = parts.scheme in schemes and bool(parts.hostname) and parts.port != 0
            except ValueError:
                valid = False
            if not valid:
                raise ValueError(f"{name}: an address like {schemes[0]}://host:port is wanted")
        if self.redis_url is not None and self.signing_keys is None:
            raise ValueError("signing_keys: must be set when Redis is used, the same for every process: kid:secret,…")
        if self.ubi and self.opensearch_url is None:
            raise ValueError("ubi: needs LTRR_OPENSEARCH_URL, where the mirror is kept")
        return self

    @property
    def embedded(self) -> list[str]:
        """Names of the settings without which a part is embedded: such a part belongs to one process."""
        return [f"{PREFIX}{name.upper()}" for name in _SCHEMES if getattr(self, name) is None]

    @classmethod
    def load(cls, environ: Mapping[str, str] | None = None, **overrides: Any) -> Settings:
        """Settings of this process. Raises SettingsInvalid with one line that names what to change."""
        environ = os.environ if environ is None else environ
        values: dict[str, Any] = {}
        path = Path(environ.get("LTRR_CONFIG", "ltrr.toml"))
        if path.is_file():
            try:
                values |= _known(tomllib.loads(path.read_text("utf-8")), str(path), prefix="")
            except (tomllib.TOMLDecodeError, UnicodeDecodeError, OSError) as error:
                raise SettingsInvalid(f"{path}: {error}") from error
        elif "LTRR_CONFIG" in environ:
            raise SettingsInvalid(f"LTRR_CONFIG: no such file {path}")
        named = {k: v for k, v in environ.items() if k.startswith(PREFIX) and k not in _NOT_SETTINGS}
        values |= _known(named, "the environment", prefix=PREFIX)
        try:
            return cls(**(values | overrides))
        except ValidationError as error:
            raise SettingsInvalid(_explain(error)) from error


def _known(values: Mapping[str, Any], source: str, prefix: str) -> dict[str, Any]:
    names = {prefix + (name.upper() if prefix else name): name for name in Settings.model_fields}
    for key in values:
        if key not in names:
            near = difflib.get_close_matches(key.upper() if prefix else key.lower(), names, 1, 0.0)[0]
            raise SettingsInvalid(f"unknown setting {key} in {source}; did you mean {near}?")
    return {names[key]: value for key, value in values.items() if value != ""}


def _explain(error: ValidationError) -> str:
    first = error.errors()[0]
    message = str(first["msg"]).removeprefix("Value error, ")
    if not first["loc"]:
        name, _, rest = message.partition(": ")
        return f"{PREFIX}{name.upper()}: {rest}"
    return f"{PREFIX}{str(first['loc'][0]).upper()}: {message}"


def _loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
