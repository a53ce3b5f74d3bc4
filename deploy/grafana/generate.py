"""Write the dashboards: `python -m deploy.grafana.generate`. The committed files must match its output."""

from __future__ import annotations

import json
from pathlib import Path

from grafana_foundation_sdk.cog.encoder import JSONEncoder

from deploy.grafana.arms import arms
from deploy.grafana.learning import learning
from deploy.grafana.overview import overview
from deploy.grafana.resources import resources

FOLDER = Path(__file__).parent / "dashboards"


def dashboards() -> dict[str, str]:
    """File name -> JSON."""
    built = (overview(), arms(), learning(), resources())
    return {f"{one.uid}.json": json.dumps(one, cls=JSONEncoder, indent=1, sort_keys=True) + "\n" for one in built}


if __name__ == "__main__":
    for name, text in dashboards().items():
        (FOLDER / name).write_text(text, "utf-8")
