"""What a study plugin is shown of a report: one setting at a time, and what the reader asked for."""

from __future__ import annotations

from dataclasses import dataclass

from mlecs_bench.report.arrange import Setting
from mlecs_bench.report.scores import Asked, file_part


@dataclass(frozen=True)
class StudyView:
    """One setting of a report: its rows by their place, and what was asked.

    `number` counts the settings of the report from 0; names of files of all but the first carry the setting's label.
    """

    setting: Setting
    asked: Asked
    number: int = 0

    @property
    def suffix(self) -> str:
        """What ends the names of this setting's tables and figures, "" in the first setting."""
        return f"-{file_part(self.setting.label)}" if self.number else ""

    def titled(self, title: str) -> str:
        """Return a section's title with what sets this setting apart from the others."""
        return f"{title} ({self.setting.label})" if self.setting.label else title
