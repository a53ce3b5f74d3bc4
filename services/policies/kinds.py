"""Kinds of requests: clusters of plan worths, predicted from the context before anything is retrieved.

A kind is a cluster of surveyed requests; its centre holds the worth of each plan (k-means, Lloyd 1982; initialised by
k-means++, Arthur and Vassilvitskii 2007; then updated request by request, MacQueen 1967). Vowpal Wabbit (`--oaa
--probabilities`, https://vowpalwabbit.org) learns P(kind | context); a plan is worth the mean over kinds. That a plan's
worth may only be a mixture of few patterns is what makes it learnable: regressing each plan on the context directly
found .01 to .02 less (films, validation, capped recall within 10, 25 and 50 candidates).

Every new request is followed by REPLAYS of earlier ones, drawn from a sample of all so far (reservoir sampling, Vitter
1985): learning from the latest requests alone, the kinds would follow whatever query is repeated just now.
"""

from __future__ import annotations

import logging
import warnings
from collections.abc import Mapping
from typing import Any, TypeAlias

import numpy as np
import vowpal_wabbit_next as vw
from numpy.typing import NDArray

from services.errors import ModelInvalid
from services.policies.vw_format import context_line

KINDS = 64
FIRST_FIT = 300
"""Requests that the first centres are fitted to."""
SAMPLE_SIZE = 1000
REPLAYS = 8
TIE_NOISE = 1e-3
"""Standard deviation of the noise that separates equal worths when the first centres are fitted."""
MIN_STEP = 1 / 200
"""Least step of a centre towards a request of its kind: centres follow when requests change."""
ARGUMENTS = (
    f"--oaa {KINDS} --probabilities --loss_function logistic --adaptive --invariant --learning_rate 1 --hash all"
    " --bit_precision 16 --quiet"
)
"""Without `--normalized`: its state is not saved, so learning would diverge after a restart."""
LOADED = "--probabilities --loss_function logistic --adaptive --invariant --quiet"
"""Options that a saved workspace does not store and that must be given again on loading."""

Workspace: TypeAlias = "vw.Workspace[Any]"
Floats = NDArray[np.float64]

logging.getLogger("vowpal_wabbit_next.driver").setLevel(logging.WARNING)  # a banner per model otherwise


class Kinds:
    """Learns to predict the worth of each plan from the context. Deterministic. Not thread-safe."""

    def __init__(self, plans: int) -> None:
        self._plans = plans
        self.requests = 0
        self.centres: NDArray[np.float32] | None = None
        self._members: NDArray[np.int64] = np.zeros(KINDS, dtype=np.int64)
        self._lines: list[str] = []
        self._worths: NDArray[np.float16] = np.zeros((0, plans), dtype=np.float16)
        self._learner = vw.Workspace(ARGUMENTS.split())
        self._parser = vw.TextFormatParser(self._learner)
        self._predictor: tuple[Workspace, Any] | None = None

    def learn(self, features: Mapping[str, float], worth: Floats, weight: float = 1.0) -> None:
        """`worth`: [plans], 0..1. Raises ValueError, having learned nothing, for features that cannot be written."""
        line = context_line(features)
        self.requests += 1
        rng = np.random.default_rng(self.requests)
        if weight >= 1.0 or rng.random() < weight:  # no principal fills the sample beyond its share
            self._keep(line, worth.astype(np.float16), rng)
        if self.centres is not None:
            self._update(self.centres, line, worth.astype(np.float32), weight)
            for place in rng.integers(0, len(self._lines), REPLAYS).tolist():
                self._update(self.centres, self._lines[place], self._worths[place].astype(np.float32), weight)
        elif len(self._lines) >= FIRST_FIT:
            self._fit_centroids(rng)
        self._predictor = None

    def worth(self, features: Mapping[str, float]) -> Floats | None:
        """Predicted worths, [plans]; None before the first kinds are fitted. Raises ValueError for features that cannot
        be written."""
        if self.centres is None:
            return None
        if self._predictor is None:
            self._predictor = self._prediction_copy()
        workspace, parser = self._predictor
        probabilities = np.array(workspace.predict_one(parser.parse_line(context_line(features))))
        # Not `@`, whose last bits depend on the number of threads: a replay must decide alike.
        found: Floats = np.einsum("i,ij->j", probabilities, self.centres.astype(np.float64))
        return found

    def arrays(self) -> dict[str, NDArray[Any]]:
        """The whole state, from which learning continues bit-identically. The library's own format is stable after one
        reload (fresh and reloaded models differ in session statistics only), so the reloaded form is written."""
        saved = vw.Workspace(LOADED.split(), model_data=self._learner.serialize()).serialize()
        return {
            "requests": np.array(self.requests),
            "centres": np.zeros((0, self._plans), np.float32) if self.centres is None else self.centres,
            "members": self._members,
            "lines": np.frombuffer("\n".join(self._lines).encode(), dtype=np.uint8),
            "worths": self._worths,
            "vw": np.frombuffer(saved, dtype=np.uint8),
        }

    @classmethod
    def of(cls, arrays: Mapping[str, NDArray[Any]], plans: int) -> Kinds:
        """Load the state that `arrays` returned. Raises ModelInvalid if it does not fit, KeyError if a part is
        missing."""
        kinds = cls(plans)
        centres, text = arrays["centres"], arrays["lines"].tobytes().decode()
        kinds.requests = int(arrays["requests"])
        kinds.centres = centres.copy() if len(centres) else None
        kinds._members = arrays["members"].copy()
        kinds._lines = text.split("\n") if text else []
        kinds._worths = arrays["worths"].copy()
        if centres.shape[1:] != (plans,) or kinds._worths.shape != (len(kinds._lines), plans):
            raise ModelInvalid("a policy model of other plans; retrain it from the event log")
        try:
            kinds._learner = vw.Workspace(LOADED.split(), model_data=arrays["vw"].tobytes())
        except Exception as error:  # the library raises bare RuntimeError and its own kinds
            raise ModelInvalid(f"a policy model that cannot be read: {type(error).__name__}") from error
        kinds._parser = vw.TextFormatParser(kinds._learner)
        kinds._predictor = kinds._prediction_copy()  # now, and not when the first search is to be decided
        return kinds

    def _prediction_copy(self) -> tuple[Workspace, Any]:
        """A copy for predictions, since the library counts predictions in what it saves; takes some milliseconds."""
        predictor = vw.Workspace(LOADED.split(), model_data=self._learner.serialize())
        return predictor, vw.TextFormatParser(predictor)

    def _keep(self, line: str, worth: NDArray[np.float16], rng: np.random.Generator) -> None:
        """Reservoir sampling: every request so far is equally likely to be in the sample."""
        if len(self._lines) < SAMPLE_SIZE:
            self._lines.append(line)
            self._worths = np.vstack([self._worths, worth])
        elif (place := int(rng.integers(0, self.requests))) < SAMPLE_SIZE:
            self._lines[place], self._worths[place] = line, worth

    def _fit_centroids(self, rng: np.random.Generator) -> None:
        """Fit the first centres to the sample."""
        # Imported here: scipy is slow to import, and most processes never get to this.
        from scipy.cluster.vq import kmeans2

        worths = self._worths.astype(np.float32)
        apart = worths + rng.normal(0.0, TIE_NOISE, worths.shape).astype(np.float32)
        with warnings.catch_warnings(action="ignore"):  # a kind without members is one to come
            self.centres, _ = kmeans2(apart, KINDS, minit="++", seed=rng)
        for line, worth in zip(self._lines, worths, strict=True):
            self._update(self.centres, line, worth, 1.0)

    def _update(self, centres: NDArray[np.float32], line: str, worth: NDArray[np.float32], weight: float) -> None:
        """Move the nearest centre towards `worth`, and learn to predict its kind from the context. NaN in `worth`
        marks a plan whose worth is unknown (services/policies/extension.py): it moves nothing."""
        away = worth - centres
        away[:, np.isnan(worth)] = 0.0
        kind = int((away**2).sum(axis=1).argmin())
        self._members[kind] += 1
        step = max(1.0 / float(self._members[kind]), MIN_STEP) * weight
        centres[kind] += away[kind] * np.float32(step)
        example = self._parser.parse_line(line)
        example.set_label(vw.MulticlassLabel(label=kind + 1, weight=weight))
        self._learner.learn_one(example)
