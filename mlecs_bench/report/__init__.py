"""Reports from records: reads records only and recomputes everything else. Knows no paper; studies are plugins."""

from mlecs_bench.report.build import Wanted, build_report, build_table
from mlecs_bench.report.summary import row_summary
from mlecs_bench.report.write import report_json, write_report

__all__ = ["Wanted", "build_report", "build_table", "report_json", "row_summary", "write_report"]
