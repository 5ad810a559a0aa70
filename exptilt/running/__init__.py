"""From a prompt to its result: requests, sessions, results files, threads and clusters."""
