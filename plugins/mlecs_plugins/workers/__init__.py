"""Workers on a cluster."""
