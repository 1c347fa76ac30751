"""A package, so that its API servers (fixture `api`) end with its last test and not with the run."""
