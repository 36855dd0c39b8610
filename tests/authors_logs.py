"""Records of the authors' published logs of the runs of Table 2 on VAST, for tests of what the paper prints."""

from __future__ import annotations

import json
from pathlib import Path

from hand_made import make_record, score

LOGS = json.loads(
    (Path(__file__).parent / "plugins" / "paper" / "authors_scaling_logs.json").read_text(encoding="utf-8")
)
"""Scores by number of devices and seed."""
LOG_NAMES = {"rouge_lsum": "rougeLsum", "bertscore": "bertscore"}
BOTH = {"rouge_lsum": "rouge-score", "bertscore": "bert-score"}


def log_record(n, seed):
    log = LOGS[n][seed]
    rouge, bert = (log["client"][LOG_NAMES[metric]] for metric in BOTH)
    record = make_record(rho=0.8, seed=int(seed), local=rouge, server=log["server"]["rougeLsum"], scorers=BOTH)
    record["metrics"]["client"]["local"]["bertscore"] = {f"d{j:02d}": score(value) for j, value in enumerate(bert)}
    record["metrics"]["server"]["bertscore"] = score(log["server"]["bertscore"])
    return record


LOG_RECORDS = [log_record(n, seed) for n in LOGS for seed in LOGS[n]]
