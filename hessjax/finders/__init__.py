"""Methods that lead from a start to a critical point, one file each."""
