"""A policy with its place in the log, as a version in the model store: what learning goes on from after a crash."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass

from services.errors import ModelInvalid
from services.models.store import ModelStore, StoredModel
from services.rewards.quota import PrincipalQuota

KIND = "policy"
POLICY_FILE = "policy.bin"
STATE_FILE = "state.json"
ADOPTED = "adopted"
"""In the meta data of a snapshot: the earlier one whose model it goes on from."""
KEPT_SNAPSHOTS = 10


@dataclass(frozen=True, slots=True)
class Snapshot:
    """A model with all that is needed to learn on from it."""

    offset: int
    """Last record of which the policy has learned all there is to learn."""
    low: int
    """First record that is needed to learn on."""
    learned: int
    quota: PrincipalQuota
    model: bytes

    @property
    def version(self) -> str:
        """Offset and digest: the same state has the same version."""
        digest = hashlib.sha256(b"".join(self.files().values())).hexdigest()[:8]
        return f"{self.offset:012d}-{digest}"

    def files(self) -> dict[str, bytes]:
        """As the model store keeps it."""
        state = {
            "offset": self.offset,
            "low": self.low,
            "learned": self.learned,
            "hour": self.quota.hour,
            "principals": self.quota.counts,
        }
        return {POLICY_FILE: self.model, STATE_FILE: json.dumps(state, sort_keys=True).encode()}


def read(stored: StoredModel) -> Snapshot:
    """Raises ModelInvalid when it is no snapshot of a policy."""
    try:
        state = json.loads(stored.files[STATE_FILE])
        quota = PrincipalQuota(int(state["hour"]), dict(state["principals"]))
        place = int(state["offset"]), int(state["low"]), int(state["learned"])
        return Snapshot(*place, quota, stored.files[POLICY_FILE])
    except (KeyError, ValueError, TypeError) as error:
        raise ModelInvalid(f"{stored.kind} {stored.version}: not a snapshot of a policy") from error


def write(store: ModelStore, snapshot: Snapshot, meta: Mapping[str, object], reason: str) -> None:
    """Store it as the active version; older ones beyond KEPT_SNAPSHOTS go."""
    store.publish(KIND, snapshot.files(), meta, snapshot.version)
    store.promote(KIND, snapshot.version, reason)
    store.prune(KIND, KEPT_SNAPSHOTS)
