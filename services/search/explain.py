"""Explanations of answers, from the log alone: no decision is computed again."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from services.backends.base import EventLog
from services.errors import NotFound
from services.query_ids import Signer
from services.rankers.base import Ranker
from services.rankers.features import NAMES
from services.search import serializers
from services.types import Deadline, Impression, Interaction

TIMEOUT = 2.0
"""Seconds to read the log."""


class Explainer:
    """Explains answers of this service as long as they are in the log."""

    def __init__(
        self,
        log: EventLog,
        signer: Signer,
        ranker: Callable[[], Ranker],
        clock: Callable[[], float] = time.time,
    ) -> None:
        """ranker: returns the active ranker."""
        self._log = log
        self._signer = signer
        self._ranker = ranker
        self._clock = clock

    async def explain(self, query_id: str) -> dict[str, Any]:
        """The query's understanding, the decision, the items found, shown and clicked, as JSON values. An expired id is
        fine.

        Raises NotFound for an id that does not belong to an answer of this service.
        """
        deadline = Deadline.after(TIMEOUT)
        known = self._signer.verify(query_id, self._clock()) != "forged"
        page = await self._log.impression(query_id, deadline) if known else None
        root = page
        if page is not None and page.root_id != query_id:
            root = await self._log.impression(page.root_id, deadline)
        if page is None or root is None:
            raise NotFound("no answer has this query_id")
        events = await self._log.interactions(query_id, deadline)
        return self._view(page, root, events)

    def _view(self, page: Impression, root: Impression, events: Sequence[Interaction]) -> dict[str, Any]:
        decision = root.decision
        called = [name for name, choice in decision.arms.items() if choice.count > 0]
        form: dict[str, Any] = {
            "query_id": page.query_id,
            "root_query_id": root.query_id,
            "at": page.at,
            "query": page.text,
            "understanding": page.understanding,
            "context": root.features,
            "decision": serializers.decision(decision)
            | {"seed": decision.seed, "arms": serializers.distributions(decision.arms)}
            | ({"shadow": serializers.distributions(decision.shadow)} if decision.shadow else {}),
            "arms": {
                name: [
                    {"object_id": object_id, "rank": rank, "score": score}
                    for rank, (object_id, score) in enumerate(root.lists[name], 1)
                ]
                for name in root.lists
            },
            "not_called": [
                {"arm": option.name, "reason": "chosen count 0" if len(option.counts) > 1 else "nothing to go on"}
                for option in root.options
                if option.name not in called
            ],
            "degraded": [serializers.degraded(d) for d in root.degraded],
            "ranker": root.ranker,
            "ranking": list(root.ranking),
            "hits": self._hits(page),
            "events": [
                {
                    "event_id": event.event_id,
                    "object_id": event.object_id,
                    "action_name": event.action_name,
                    "position": event.position,
                    "value": event.value,
                    "at": event.at,
                    "status": event.status,
                }
                for event in events
            ],
        }
        return form

    def _hits(self, page: Impression) -> list[dict[str, Any]]:
        contributions = self._contributions(page)
        return [
            {"object_id": object_id, "position": page.offset + place}
            | (
                {
                    "features": dict(zip(NAMES, page.rows[place - 1], strict=False)),
                    "contributions": contributions[place - 1],
                }
                if page.rows
                else {}
            )
            for place, object_id in enumerate(page.shown, 1)
        ]

    def _contributions(self, page: Impression) -> list[dict[str, float] | None]:
        """Per item shown, feature name -> contribution to the score; None when a different ranker from the one that
        ordered this answer is active."""
        ranker = self._ranker()
        if not page.rows or ranker.version != page.ranker or len(page.rows[0]) != len(NAMES):
            return [None] * len(page.shown)
        return [dict(c) for c in ranker.contributions(np.asarray(page.rows, dtype=np.float32))]
