"""Records: the files that a run leaves on disk, and how runs are merged."""
