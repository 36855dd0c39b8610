"""The tracker `mlflow`: a run per cell on a tracking server, or in a file of SQLite beside the records."""

from __future__ import annotations

import logging
import os
import re
import time
from typing import TYPE_CHECKING

from mlecs_bench.api import TrackerInfo, TrackerRequest, UsageError
from mlecs_plugins.observers.runs import Beginning, CellRuns, Numbers

if TYPE_CHECKING:
    from mlflow.tracking import MlflowClient

EXPERIMENT = "mlecs-bench"
KEY_TAG, ROUND_TAG, ERROR_TAG = "mlecs_bench.key", "mlecs_bench.round", "mlecs_bench.error"
METRICS_AT_ONCE, PARAMS_AT_ONCE = 500, 100
"""Of one request; MLflow takes 1000 metrics, 100 params and 1000 of all together."""
LONGEST = 500
"""Characters of a param that every store takes."""


def make(request: TrackerRequest) -> CellRuns:
    """Return the tracker.

    MLFLOW_TRACKING_URI and MLFLOW_EXPERIMENT_NAME say where runs go; without them a file in the folder of the request.
    Raises UsageError when the store cannot be opened.
    """
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")  # read when mlflow is imported
    from mlflow.exceptions import MlflowException
    from mlflow.tracking import MlflowClient

    logging.getLogger("mlflow.store").setLevel(logging.WARNING)  # a new file is no news
    given = os.environ.get("MLFLOW_TRACKING_URI")
    name = os.environ.get("MLFLOW_EXPERIMENT_NAME") or EXPERIMENT
    try:
        if not given:
            request.folder.mkdir(parents=True, exist_ok=True)
        uri = given or f"sqlite:///{request.folder.resolve() / 'mlflow.db'}"
        client = MlflowClient(tracking_uri=uri)
        found = client.get_experiment_by_name(name)
        place = None if given else (request.folder.resolve() / "artifacts").as_uri()
        experiment = found.experiment_id if found else client.create_experiment(name, artifact_location=place)
    except (OSError, MlflowException) as error:
        cause = " ".join(str(error).split())
        raise UsageError(
            f"MLflow cannot write to {given or request.folder} ({cause}); set MLFLOW_TRACKING_URI"
        ) from error
    return CellRuns(uri, lambda beginning: StoredRun(client, experiment, beginning))


class StoredRun:
    """The run of one cell: that of its key where there is one, else a new one.

    A round that it holds already is not logged again: the same key means the same numbers.
    """

    def __init__(self, client: MlflowClient, experiment: str, beginning: Beginning) -> None:
        self._client = client
        key = beginning.cell.key
        found = client.search_runs([experiment], f"tags.`{KEY_TAG}` = '{key}'", max_results=1)
        if found:
            self._id, self._logged = found[0].info.run_id, int(found[0].data.tags.get(ROUND_TAG, "0"))
            client.update_run(self._id, status="RUNNING")
            return
        created = client.create_run(experiment, run_name=beginning.name, tags={KEY_TAG: key, ROUND_TAG: "0"})
        self._id, self._logged = created.info.run_id, 0
        self._log_settings(beginning)

    def _log_settings(self, beginning: Beginning) -> None:
        from mlflow.entities import Param

        params = [Param(name, str(value)[:LONGEST]) for name, value in beginning.settings.items()]
        for start in range(0, len(params), PARAMS_AT_ONCE):
            self._client.log_batch(self._id, params=params[start : start + PARAMS_AT_ONCE])

    def log(self, step: int, numbers: Numbers) -> None:
        """Keep the numbers of a step, and with the last of them that the step is there."""
        from mlflow.entities import Metric, RunTag

        if step <= self._logged:
            return
        now = int(time.time() * 1000)
        metrics = [Metric(metric_name(name), number, now, step) for name, number in numbers.items()]
        for start in range(0, len(metrics), METRICS_AT_ONCE):
            self._client.log_batch(self._id, metrics=metrics[start : start + METRICS_AT_ONCE])
        self._client.log_batch(self._id, tags=[RunTag(ROUND_TAG, str(step))])
        self._logged = step

    def end(self, error: str | None) -> None:
        """Say how the cell ended."""
        if error is not None:
            self._client.set_tag(self._id, ERROR_TAG, error[-LONGEST:])
        self._client.set_terminated(self._id, "FINISHED" if error is None else "FAILED")


def metric_name(name: str) -> str:
    """Return a name in the characters that MLflow takes."""
    return re.sub(r"[^A-Za-z0-9_\-. /]", "_", name)


TRACKER = TrackerInfo(
    title="MLflow",
    summary="A run per cell: all numbers of every round, the plan as params; in mlflow.db or on a tracking server.",
    make=make,
    packages=("mlflow", "sqlalchemy", "alembic"),
    install="pip install 'mlecs-bench[mlflow]'",
)
