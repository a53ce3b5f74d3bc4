from __future__ import annotations

import pytest

from app.offline.rank_fusion import reciprocal_rank_fusion
from services.types import Candidate, Found


def test_reciprocal_ranks_by_hand() -> None:
    lists = {"lexical": [Candidate("a", 1.0), Candidate("b", 0.5)], "vector": [Candidate("b", 0.9)]}
    pool = reciprocal_rank_fusion(lists)
    assert [p.object_id for p in pool] == ["b", "a"]
    assert pool[0].score == pytest.approx(1 / 62 + 1 / 61)
    assert pool[1].score == pytest.approx(1 / 61)
    assert pool[0].arms == {"lexical": Found(2, 0.5), "vector": Found(1, 0.9)}


def test_scores_do_not_matter() -> None:
    small, large = ({"lexical": [Candidate("a", 2 * top), Candidate("b", top)]} for top in (0.1, 1e6))
    assert [p.score for p in reciprocal_rank_fusion(small)] == [p.score for p in reciprocal_rank_fusion(large)]


def test_nothing_gives_nothing() -> None:
    assert reciprocal_rank_fusion({}) == []
