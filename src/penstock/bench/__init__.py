"""Fair benchmarks: load on any OpenAI-compatible endpoint, definitions of its metrics, records, comparison, reports."""
