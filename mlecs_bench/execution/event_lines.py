"""Events as lines of JSON, for workers whose cells run where no event of Python can be sent from."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

from mlecs_bench.doors.events import CellRef, Event
from mlecs_bench.records.results import read_record


def event_line(event: Event) -> str:
    """Return an event as one line of JSON. Of a record that ends a cell it holds the path."""
    values = {name: value for name, value in event.values.items() if (event.kind, name) != ("cell_end", "record")}
    own = {"kind": event.kind, "round": event.round, "device": event.device, "values": values}
    return json.dumps({**own, "cell": dataclasses.asdict(event.cell) if event.cell else None}, default=str)


def event_of(line: str) -> Event:
    """Read what `event_line` wrote; a record that ends a cell is read again from its path."""
    own = json.loads(line)
    values = own["values"]
    if own["kind"] == "cell_end":
        path = Path(values["path"]) if values["path"] else None
        values |= {"path": path, "record": read_record(path) if path else None}
    return Event(own["kind"], CellRef(**own["cell"]) if own["cell"] else None, own["round"], own["device"], values)
