"""Pure functions that algorithms share: no state, no knowledge of any algorithm."""
