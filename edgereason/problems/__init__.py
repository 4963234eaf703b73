"""Questions with their right answers: records, extraction of results, and two generators."""
