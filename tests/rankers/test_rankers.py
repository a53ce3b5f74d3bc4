from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from services.errors import ModelInvalid
from services.rankers import onnx as onnx_ranker
from services.rankers.base import Ranker, Rows
from services.rankers.cascade import pool_scores
from services.rankers.features import NAMES, rows
from services.rankers.fusion import FUSION_WEIGHTS, fuse
from services.rankers.onnx import OnnxRanker
from services.rankers.passthrough import PassthroughRanker
from services.types import Candidate, Context, Interpretation, Query, Schema, Understanding
from tests.contracts.ranker import RankerContract, random_rows

CONTEXT = Context(Query("x"), Understanding("x", ("x",), (), None, "en", (Interpretation(1.0, (), ("x",)),)), 0.0)


def linear_model(weights: Sequence[float], external: bool = False, dtype: int = TensorProto.FLOAT) -> bytes:
    """An ONNX model that scores a row by the sum of its features times `weights`."""
    table = numpy_helper.from_array(np.array(weights, dtype=np.float32)[:, None], "weights")
    if external:
        onnx.external_data_helper.set_external_data(table, "weights.bin")
        table.ClearField("raw_data")
        table.data_location = TensorProto.EXTERNAL
    graph = helper.make_graph(
        [
            helper.make_node("Cast", ["rows"], ["cast"], to=TensorProto.FLOAT),
            helper.make_node("MatMul", ["cast", "weights"], ["scores"]),
        ],
        "linear",
        [helper.make_tensor_value_info("rows", dtype, [None, len(weights)])],
        [helper.make_tensor_value_info("scores", TensorProto.FLOAT, [None, 1])],
        [table],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 15)], ir_version=8)
    data: bytes = model.SerializeToString()
    return data


def meta(width: int = len(NAMES), **more: Any) -> dict[str, Any]:
    return {"format": 1, "features": list(NAMES[:width]), "reference": [0.5] * width, **more}


WEIGHTS = np.linspace(-1.0, 1.0, len(NAMES))


class TestPassthrough(RankerContract):
    @pytest.fixture
    def ranker(self) -> Ranker:
        return PassthroughRanker()

    def test_the_fused_order_stays(self) -> None:
        lists = {
            "lexical": [Candidate("a", 9.0), Candidate("b", 6.0), Candidate("c", 3.0)],
            "vector": [Candidate("c", 0.7), Candidate("d", 0.6)],
            "memory": [Candidate("d", 3.0)],
        }
        pool = fuse(lists, FUSION_WEIGHTS)
        table = rows(CONTEXT, pool, {}, Schema())
        ranker = PassthroughRanker()
        assert ranker.score(table).tolist() == pytest.approx([p.score for p in pool])
        for pooled, parts in zip(pool, ranker.contributions(table), strict=True):
            assert sum(parts.values()) == pytest.approx(pooled.score, abs=1e-6)
            assert "fused" not in parts
            assert all(part.removesuffix("_scaled") in pooled.arms for part in parts)

    def test_what_no_arm_accounts_for_is_named(self) -> None:
        """Items that fill up a page come from no arm and still have their place."""
        table = np.zeros((1, len(NAMES)), dtype=np.float32)
        table[0, NAMES.index("fused")] = -0.25
        assert PassthroughRanker().contributions(table) == [{"fused": -0.25}]


class TestOnnx(RankerContract):
    @pytest.fixture
    def ranker(self) -> Ranker:
        return OnnxRanker(linear_model(WEIGHTS.tolist()), meta(), "7")

    def test_scores_are_the_models(self) -> None:
        table = random_rows(30)
        scores = OnnxRanker(linear_model(WEIGHTS.tolist()), meta(), "7").score(table)
        assert scores == pytest.approx(table @ WEIGHTS.astype(np.float32), abs=1e-5)

    def test_a_model_of_fewer_features_reads_the_first_columns(self) -> None:
        table = random_rows(3)
        ranker = OnnxRanker(linear_model([1.0] * 5), meta(5), "7")
        assert ranker.score(table) == pytest.approx(table[:, :5].sum(axis=1), abs=1e-5)
        assert set(ranker.contributions(table)[0]) <= set(NAMES[:5])

    def test_a_model_is_given_its_columns_by_name(self) -> None:
        """Columns in another order, as after columns were added or moved."""
        table = random_rows(3)
        some = NAMES[7::-3]
        ranker = OnnxRanker(linear_model([1.0, 2.0, 4.0]), meta(3, features=list(some)), "7")
        columns = table[:, [NAMES.index(name) for name in some]]
        assert ranker.score(table) == pytest.approx(columns @ np.array([1.0, 2.0, 4.0], dtype=np.float32), abs=1e-5)
        for row, parts in zip(columns.tolist(), ranker.contributions(table), strict=True):
            expected = zip(some, (1.0, 2.0, 4.0), row, strict=True)
            assert parts == pytest.approx({name: weight * (value - 0.5) for name, weight, value in expected}, abs=1e-5)

    def test_contributions_are_what_a_feature_adds_to_its_typical_value(self) -> None:
        table = random_rows(2)
        ranker = OnnxRanker(linear_model([2.0, 0.0, -1.0]), meta(3), "7")
        for row, parts in zip(table.tolist(), ranker.contributions(table), strict=True):
            assert parts == pytest.approx({NAMES[0]: 2 * (row[0] - 0.5), NAMES[2]: -(row[2] - 0.5)}, abs=1e-5)


class TestPoolScores:
    FUSED = NAMES.index("fused")

    def reversing(self, **more: Any) -> OnnxRanker:
        """Its order is the fused one from behind."""
        weights = np.zeros(len(NAMES))
        weights[self.FUSED] = -1.0
        return OnnxRanker(linear_model(weights.tolist()), meta(**more), "7")

    def pool(self, n: int) -> Rows:
        table = np.zeros((n, len(NAMES)), dtype=np.float32)
        table[:, self.FUSED] = np.linspace(1.0, 0.0, n)
        return table

    def test_what_stands_deeper_than_a_ranker_sees_stays_where_it_was(self) -> None:
        scores = pool_scores(self.reversing(depth=3), self.pool(6))
        assert scores.dtype == np.float32
        assert np.argsort(-scores).tolist() == [2, 1, 0, 3, 4, 5]

    def test_rows_in_any_order(self) -> None:
        turned = np.random.default_rng(0).permutation(6)
        ranker = self.reversing(depth=3)
        assert (pool_scores(ranker, self.pool(6)[turned]) == pool_scores(ranker, self.pool(6))[turned]).all()

    @pytest.mark.parametrize(("depth", "n"), [(None, 6), (6, 6), (7, 6), (3, 0)])
    def test_all_of_it_is_ranked_where_nothing_is_deeper(self, depth: int | None, n: int) -> None:
        ranker = self.reversing() if depth is None else self.reversing(depth=depth)
        assert (pool_scores(ranker, self.pool(n)) == ranker.score(self.pool(n))).all()

    def test_the_fused_order_has_no_depth(self) -> None:
        assert (pool_scores(PassthroughRanker(), self.pool(6)) == self.pool(6)[:, self.FUSED]).all()


class TestInvalidModels:
    @pytest.mark.parametrize(
        ("model", "described"),
        [
            (b"", meta()),
            (b"not a model", meta()),
            (linear_model(WEIGHTS.tolist())[:-40], meta()),
            (linear_model(WEIGHTS.tolist()), meta(format=2)),
            (linear_model(WEIGHTS.tolist()), {}),
            (linear_model(WEIGHTS.tolist()), meta(features=[*NAMES[:-1], NAMES[0]])),
            (linear_model(WEIGHTS.tolist()), meta(features="fused")),
            (linear_model(WEIGHTS.tolist()), meta(features=[*NAMES, "another"])),
            (linear_model(WEIGHTS.tolist()), meta(features=[])),
            (linear_model(WEIGHTS.tolist()), meta(features=None)),
            (linear_model(WEIGHTS.tolist()), meta(5)),
            (linear_model(WEIGHTS.tolist()), meta(reference=[0.5])),
            (linear_model(WEIGHTS.tolist()), meta(reference=[float("nan")] * len(NAMES))),
            (linear_model(WEIGHTS.tolist()), meta(reference="many")),
            (linear_model(WEIGHTS.tolist()), meta(depth=0)),
            (linear_model(WEIGHTS.tolist()), meta(depth=2.5)),
            (linear_model([float("nan")] * len(NAMES)), meta()),
            (linear_model(WEIGHTS.tolist(), dtype=TensorProto.DOUBLE), meta()),
        ],
    )
    def test_they_are_refused(self, model: bytes, described: dict[str, Any]) -> None:
        with pytest.raises(ModelInvalid, match="ranker 7"):
            OnnxRanker(model, described, "7")

    def test_too_large_a_model_is_refused(self, monkeypatch: pytest.MonkeyPatch) -> None:
        model = linear_model(WEIGHTS.tolist())
        monkeypatch.setattr(onnx_ranker, "MAX_MODEL_BYTES", len(model) - 1)
        with pytest.raises(ModelInvalid, match="more than"):
            OnnxRanker(model, meta(), "7")

    def test_a_model_that_reads_other_files_is_refused(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """The runtime resolves such names against the working directory, where the file would be found."""
        monkeypatch.chdir(tmp_path)
        (tmp_path / "weights.bin").write_bytes(WEIGHTS.astype(np.float32).tobytes())
        with pytest.raises(ModelInvalid, match="other files"):
            OnnxRanker(linear_model(WEIGHTS.tolist(), external=True), meta(), "7")
