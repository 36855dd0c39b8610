"""Reports from records: reads records only and recomputes everything else. Knows no paper; studies are plugins.

The package can be called, as `mlecs_bench.report(folder)`: its name is also that of the function which users call.
"""

import sys
import types
from typing import Any

from mlecs_bench.report.build import Wanted, build_report, build_table
from mlecs_bench.report.summary import row_summary
from mlecs_bench.report.write import report_json, write_report

__all__ = ["Wanted", "build_report", "build_table", "report_json", "row_summary", "write_report"]


class _CallablePackage(types.ModuleType):
    def __call__(self, *folder: Any, **shown: Any) -> Any:
        """Write the report on a folder of records; see `mlecs_bench.report.folder.report`."""
        from mlecs_bench.report.folder import report

        return report(*folder, **shown)


sys.modules[__name__].__class__ = _CallablePackage
