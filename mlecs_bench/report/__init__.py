"""Tables from records: reads records only and recomputes everything else."""

from mlecs_bench.report.overview import build_table, row_summary

__all__ = ["build_table", "row_summary"]
