"""What holds calls against the types and shapes of a signature while tests run."""

from __future__ import annotations

from beartype import BeartypeConf, beartype

checked = beartype(conf=BeartypeConf(is_pep484_tower=True))  # an int is a float where one is asked for
