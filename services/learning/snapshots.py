"""Snapshots: a policy with its position in the log, as a version in the model store, to continue from after a crash."""

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
"""Metadata key of a snapshot: the earlier one whose model it continues from."""
KEPT_SNAPSHOTS = 10


@dataclass(frozen=True, slots=True)
class Snapshot:
    """A model with everything needed to continue learning from it."""

    offset: int
    """Offset up to which the policy has learned everything."""
    low: int
    """Offset of the first record that is needed to continue learning."""
    learned: int
    quota: PrincipalQuota
    model: bytes

    @property
    def version(self) -> str:
        """Offset and digest: the same state has the same version."""
        digest = hashlib.sha256(b"".join(self.files().values())).hexdigest()[:8]
        return f"{self.offset:012d}-{digest}"

    def files(self) -> dict[str, bytes]:
        """File name -> contents, for the model store."""
        state = {
            "offset": self.offset,
            "low": self.low,
            "learned": self.learned,
            "hour": self.quota.hour,
            "principals": self.quota.counts,
        }
        return {POLICY_FILE: self.model, STATE_FILE: json.dumps(state, sort_keys=True).encode()}


def read(stored: StoredModel) -> Snapshot:
    """The snapshot in a stored model. Raises ModelInvalid when it is not a snapshot of a policy."""
    try:
        state = json.loads(stored.files[STATE_FILE])
        quota = PrincipalQuota(int(state["hour"]), dict(state["principals"]))
        place = int(state["offset"]), int(state["low"]), int(state["learned"])
        return Snapshot(*place, quota, stored.files[POLICY_FILE])
    except (KeyError, ValueError, TypeError) as error:
        raise ModelInvalid(f"{stored.kind} {stored.version}: not a snapshot of a policy") from error


def write(store: ModelStore, snapshot: Snapshot, meta: Mapping[str, object], reason: str) -> None:
    """Store the snapshot as the active version; older ones beyond KEPT_SNAPSHOTS are removed."""
    store.publish(KIND, snapshot.files(), meta, snapshot.version)
    store.promote(KIND, snapshot.version, reason)
    store.prune(KIND, KEPT_SNAPSHOTS)
