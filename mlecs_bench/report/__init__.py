"""Tables from records: reads records only and recomputes everything else."""
